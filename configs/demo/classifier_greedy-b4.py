# The demo's classifier, searched and merged as in the paper.
_base_ = ['./classifier.py', '../_base_/mmdiscard/greedy-b4.py']

tta_model = dict(_delete_=True, type='mmdiscard.DiscardClsTTA')
