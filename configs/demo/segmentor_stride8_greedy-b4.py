# The paper's settings: greedy search by entropy over the inner groups, features blended.
_base_ = ['./segmentor_stride8.py', '../_base_/mmdiscard/greedy-b4.py']

tta_model = dict(_delete_=True, type='mmdiscard.DiscardSegTTA')
