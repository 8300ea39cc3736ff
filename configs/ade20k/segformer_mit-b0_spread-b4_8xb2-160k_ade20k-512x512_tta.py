# Run with --tta: views and states merged together.
_base_ = './segformer_mit-b0_spread-b4_8xb2-160k_ade20k-512x512.py'

# The views are MMSegmentation's own: six sizes, each with its mirror image.
tta_model = dict(_delete_=True, type='mmdiscard.DiscardSegTTA')
