# What the three demo models share: two CPU cores, short runs, one checkpoint.
randomness = dict(seed=0)
env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='gloo'),
)
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=20, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    # Validation at the end only: the schedule is short and nothing is selected on it.
    checkpoint=dict(
        type='CheckpointHook',
        by_epoch=False,
        interval=10000,
        save_last=True,
        max_keep_ckpts=1,
        save_optimizer=False,
    ),
    sampler_seed=dict(type='DistSamplerSeedHook'),
)
log_processor = dict(window_size=20, by_epoch=False)
log_level = 'INFO'
load_from = None
resume = False
