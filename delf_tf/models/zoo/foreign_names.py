"""The names that other programs give the arrays of our networks, a table a program."""

from __future__ import annotations

from delf_tf.models.zoo.names import Names

MOBILENET_V2_ONNX_ZOO = Names(
    modules={
        "conv0": "backbone.stem.conv",
        "batchnorm0": "backbone.stem.norm",
        "conv1": "backbone.head.conv",
        "batchnorm1": "backbone.head.norm",
    },
    block=r"linearbottleneck(?P<block>\d+)_",
    block_path="backbone.block{block}",
    block_modules={
        f"{foreign}{index}": f"{ours}.{kind}"
        for index, ours in enumerate(("expand", "depthwise", "project"))
        for foreign, kind in (("conv", "conv"), ("batchnorm", "norm"))
    },
    ignored=r"(output|pred|classifier).*",
    separator="_",
)

EFFICIENTNET_LITE_PYTORCH = Names(
    modules={
        "_conv_stem": "backbone.stem.conv",
        "_bn0": "backbone.stem.norm",
        "_conv_head": "backbone.head.conv",
        "_bn1": "backbone.head.norm",
    },
    block=r"_blocks\.(?P<block>\d+)\._",
    block_path="backbone.block{block}",
    block_modules={
        foreign: f"{ours}.{kind}"
        for index, ours in enumerate(("expand", "depthwise", "project"))
        for foreign, kind in ((f"{ours}_conv", "conv"), (f"bn{index}", "norm"))
    },
    ignored=r"(.*\.)?num_batches_tracked|_fc\.(weight|bias)",
)

RESNET50_V2_SLIM = Names(
    modules={"conv1": "backbone.stem.conv"},
    block=r"block(?P<stage>\d)_unit_(?P<block>\d+)_bottleneck_v2_",
    block_path="backbone.stage{stage}_unit{block}",
    block_modules={name: f"{name}.conv" for name in ("conv1", "conv2", "conv3", "shortcut")},
    first=(1, 0),
    arrays={
        f"block{stage}_unit_{unit}_bottleneck_v2_preact_FusedBatchNorm_{param}": (
            f"backbone.stage{stage + 1}_unit{unit}.{ours}"
        )
        for stage in (1, 2, 3)
        for unit in range(1, 7)
        for param, ours in (("mul_0_param", "gamma"), ("add_param", "beta"))
    },
    separator="_",
    kernel_axes="OHWI",
)

# Ours -> theirs, and how many normalised convolutions each has.
_XFEAT_CHAINS = {
    **{f"backbone.block{n}": (f"block{n}", count) for n, count in enumerate((4, 2, 3, 3, 4), 1)},
    "backbone.fusion": ("block_fusion", 2),
    "reliability.hidden": ("heatmap_head", 2),
    "keypoints.hidden": ("keypoint_head", 3),
}
_XFEAT_LAYERS = {
    f"{theirs}.{index}.layer": f"{ours}_{index}"
    for ours, (theirs, count) in _XFEAT_CHAINS.items()
    for index in range(count)
}

# Its normalisations have no learnt scale and shift.
XFEAT = Names(
    modules={
        "skip1.1": "backbone.skip",
        "block_fusion.2": "backbone.merge",
        "heatmap_head.2": "reliability.score",
        "keypoint_head.3": "keypoints.logits",
        **{f"{theirs}.0": f"{ours}.conv" for theirs, ours in _XFEAT_LAYERS.items()},
        **{f"{theirs}.1": f"{ours}.norm" for theirs, ours in _XFEAT_LAYERS.items()},
    },
    ignored=r"(.*\.)?num_batches_tracked|fine_matcher\..*",
    defaults={
        f"{ours}.norm.{leaf}": value
        for ours in _XFEAT_LAYERS.values()
        for leaf, value in (("gamma", 1.0), ("beta", 0.0))
    },
)

DINOV2 = Names(
    modules={"patch_embed.proj": "backbone.stem", "norm": "backbone.norm"},
    # In checkpoints of training the blocks lie in chunks.
    block=r"blocks\.(\d+\.)?(?P<block>\d+)\.",
    block_path="backbone.block{block}",
    block_modules={
        "norm1": "norm1",
        "norm2": "norm2",
        "attn.qkv": "qkv",
        "attn.proj": "out",
        "mlp.fc1": "hidden",
        "mlp.fc2": "shrink",
    },
    block_arrays={"ls1.gamma": "scale1", "ls2.gamma": "scale2"},
    arrays={
        "cls_token": "backbone.class_token",
        "register_tokens": "backbone.registers",
        "pos_embed": "backbone.positions",
    },
    ignored=r"mask_token",
)

_TORCHVISION_BLOCK = {
    **{f"conv{index}": f"conv{index}.conv" for index in (1, 2, 3)},
    **{f"bn{index}": f"conv{index}.norm" for index in (1, 2, 3)},
    "downsample.0": "shortcut.conv",
    "downsample.1": "shortcut.norm",
}

TORCHVISION_RESNET = Names(
    modules={"conv1": "backbone.stem.conv", "bn1": "backbone.stem.norm"},
    block=r"layer(?P<stage>\d)\.(?P<block>\d+)\.",
    block_path="backbone.stage{stage}_block{block}",
    block_modules=_TORCHVISION_BLOCK,
    first=(1, 1),
    ignored=r"(.*\.)?num_batches_tracked|fc\.(weight|bias)",
)

SUPERFEATURES_PYTORCH = Names(
    modules={
        "features.0": "backbone.stem.conv",
        "features.1": "backbone.stem.norm",
        "lit.project_q": "integration.query",
        "lit.project_k": "integration.key",
        "lit.project_v": "integration.value",
        "lit.norm_inputs": "integration.norm_inputs",
        "lit.norm_templates": "integration.norm_templates",
        "lit.norm_mlp": "integration.norm_mlp",
        "lit.mlp.0": "integration.mlp_hidden",
        "lit.mlp.2": "integration.mlp_out",
        "dim_reduction": "reduction",
    },
    # features.4, .5 and .6 are stages 2, 3 and 4.
    block=r"features\.(?P<stage>[456])\.(?P<block>\d+)\.",
    block_path="backbone.stage{stage}_block{block}",
    block_modules=_TORCHVISION_BLOCK,
    first=(-2, 1),
    arrays={"lit.templates_init": "integration.templates"},
)

_DOLG_BLOCK = {
    "proj": "shortcut.conv",
    "bn": "shortcut.norm",
    **{f"f.{letter}": f"conv{index + 1}.conv" for index, letter in enumerate("abc")},
    **{f"f.{letter}_bn": f"conv{index + 1}.norm" for index, letter in enumerate("abc")},
}

DOLG_PYTORCH = Names(
    modules={
        "globalmodel.stem.conv": "backbone.stem.conv",
        "globalmodel.stem.bn": "backbone.stem.norm",
        "fc_t": "project_global",
        "fc": "embedding",
        "localmodel.aspp.im_pool.1": "multi_atrous.pooled",
        "localmodel.aspp.aspp.0": "multi_atrous.pointwise",
        "localmodel.aspp.aspp.1": "multi_atrous.atrous6",
        "localmodel.aspp.aspp.2": "multi_atrous.atrous12",
        "localmodel.aspp.aspp.3": "multi_atrous.atrous18",
        "localmodel.aspp.conv_after.0": "multi_atrous.merge",
        "localmodel.conv1": "self_attention.project.conv",
        "localmodel.bn": "self_attention.project.norm",
        "localmodel.conv2": "self_attention.score",
    },
    block=r"globalmodel\.s(?P<stage>\d)\.b(?P<block>\d+)\.",
    block_path="backbone.stage{stage}_block{block}",
    block_modules=_DOLG_BLOCK,
    first=(1, 0),
    arrays={"pool_g.p": "pooling.power"},
    ignored=r"(.*\.)?num_batches_tracked|desc_cls\..*",
)

# The authors' conversion of the same weights: their names and axes, but Paddle's statistics,
# linear layers the other way round, and GeM's exponent fixed.
DOLG_PADDLE = DOLG_PYTORCH._replace(linear_axes="IO", defaults={"pooling.power": 3.0})

KERAS_APPLICATIONS_RESNET = Names(
    modules={"conv1_conv": "backbone.stem.conv", "conv1_bn": "backbone.stem.norm"},
    block=r"conv(?P<stage>\d)_block(?P<block>\d+)_",
    block_path="backbone.stage{stage}_block{block}",
    block_modules={
        f"{index}_{foreign}": f"{layer}.{kind}"
        for index, layer in enumerate(("shortcut", "conv1", "conv2", "conv3"))
        for foreign, kind in (("conv", "conv"), ("bn", "norm"))
    },
    ignored=r"predictions\..*|probs\..*",
    kernel_axes="HWIO",
    linear_axes="IO",
)

_DELF_BLOCK = {
    "conv_shortcut": "shortcut.conv",
    "bn_shortcut": "shortcut.norm",
    **{f"conv2{letter}": f"conv{index + 1}.conv" for index, letter in enumerate("abc")},
    **{f"bn2{letter}": f"conv{index + 1}.norm" for index, letter in enumerate("abc")},
}

# The object names of the original's TF2 checkpoints (research/delf of tensorflow/models).
DELF_TF2 = Names(
    modules={
        "backbone.conv1": "backbone.stem.conv",
        "backbone.bn_conv1": "backbone.stem.norm",
        "backbone.embedding_layer": "whitening",
        "attention.conv1": "attention.hidden.conv",
        "attention.bn_conv1": "attention.hidden.norm",
        "attention.conv2": "attention.score",
        "autoencoder.conv1": "autoencoder.encoder",
        "autoencoder.conv2": "autoencoder.decoder",
        **{
            f"backbone.l{stage}{letter}.{foreign}": f"backbone.stage{stage}_block{index + 1}.{ours}"
            for stage in (2, 3, 4, 5)
            for index, letter in enumerate("abcdef")
            for foreign, ours in _DELF_BLOCK.items()
        },
    },
    ignored=r"(desc_classification|attn_classification|cosine_weights|scale_factor|optimizer"
    r"|save_counter|num_classes|backbone\.fc1000)(\..*)?",
    kernel_axes="HWIO",
    linear_axes="IO",
)
