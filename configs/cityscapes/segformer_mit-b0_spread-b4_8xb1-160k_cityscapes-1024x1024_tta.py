# Run with --tta: views and states merged together.
_base_ = './segformer_mit-b0_spread-b4_8xb1-160k_cityscapes-1024x1024.py'

# The views are MMSegmentation's own: six sizes, each with its mirror image.
tta_model = dict(_delete_=True, type='mmdiscard.DiscardSegTTA')
