# The first group, four of its sixteen states. Aligned exactly.
_base_ = ['./segmentor_mit.py', '../_base_/mmdiscard/spread-b4_first-group.py']

tta_model = dict(_delete_=True, type='mmdiscard.DiscardSegTTA')
