# Run with --tta: views and states merged together.
_base_ = './deeplabv3_r50-d8_spread-b4_4xb4-160k_ade20k-512x512.py'

# The views are MMSegmentation's own: six sizes, each with its mirror image.
tta_model = dict(_delete_=True, type='mmdiscard.DiscardSegTTA')
