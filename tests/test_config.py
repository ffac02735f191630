from __future__ import annotations

import pytest

from delf_tf import config
from delf_tf.models import registry
from delf_tf.models.backbones.create import KERAS_PREFIX
from delf_tf.protos import delf_config_pb2, experiment_pb2

GOOD = """
model { name: "delg_resnet50" embedding_dim: 512 }
extraction { image_scales: [0.5, 1.0] max_num_features: 300 }
"""


def _parse(text):
    return config.parse(text, experiment_pb2.Experiment, source="x.textproto")


def test_load_reads_files_and_applies_overrides(tmp_path):
    path = tmp_path / "x.textproto"
    path.write_text(GOOD)
    message = config.load_experiment(
        str(path), ["model.embedding_dim=64", "extraction.image_scales=2", "rerank.mutual=false"]
    )
    assert message.model.embedding_dim == 64
    assert list(message.extraction.image_scales) == [2.0]
    assert message.HasField("rerank")
    assert not message.rerank.mutual


def test_every_shipped_config_parses():
    names = config.list_configs()
    assert names
    for name in names:
        message = config.load_experiment(name)
        assert message == config.load_experiment(f"configs/{name}.textproto")
        assert message.HasField("model")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('model {\n  nme: "x"\n}', r"^x.textproto:2:\d+: ModelConfig has no field 'nme'.*'name'"),
        ("modl {}", r"^x.textproto:1:1: Experiment has no field 'modl'.*'model'"),
        ('\nmodel { seed: "x" }', r"^x.textproto:2:\d+: .*integer"),
        ("rerank { mutal: true }", "Did you mean 'mutual'"),
        ("rerank { zzzzzz: true }", "Valid: method, "),
        ("model {", "x.textproto:1:"),
        ("model { name: 'a' name: 'b' }", "x.textproto:1:"),
    ],
)
def test_mistakes_are_one_line_with_the_place(text, message):
    with pytest.raises(config.ConfigError, match=message) as caught:
        _parse(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.nam=x", "Did you mean 'name'"),
        ("model.seed=x", "'seed' takes a whole number"),
        ("model.gem_power=three", "takes a number"),
        ("rerank.mutual=perhaps", "takes true or false"),
        ("model=3", "'model' is a section"),
        ("model.name.x=3", "'name' has no fields"),
        ("model.name", "path.to.field=value"),
        ("=3", "path.to.field=value"),
        ("model.seed=1 name: 'x'", "takes a whole number"),
    ],
)
def test_bad_overrides(override, message):
    with pytest.raises(config.ConfigError, match=message):
        config.apply_override(experiment_pb2.Experiment(), override)


def test_override_takes_any_text_for_strings():
    message = experiment_pb2.Experiment()
    config.apply_override(message, 'model.weights=/a b/"c"=d\\e.npz')
    assert message.model.weights == '/a b/"c"=d\\e.npz'


@pytest.mark.parametrize(
    "text",
    [
        'model { name: "%s" }',
        'index { type: "%s" }',
        'training { losses { teacher { name: "%s" } } }',
    ],
)
@pytest.mark.parametrize(
    "name", ["code:interact", "http.server:test", "foo_keras:B0", ":", "a:b:c"]
)
def test_code_is_named_by_permission_only(tmp_path, text, name):
    path = tmp_path / "c.textproto"
    path.write_text(text % name)
    module = name.partition(":")[0]
    with pytest.raises(config.ConfigError, match=r"only of packages that are allowed.*trust it"):
        config.load_experiment(str(path))
    for other in ("htt", "http.server.more", "codes", "delf_tf"):
        with pytest.raises(config.ConfigError):
            config.load_experiment(str(path), allow_imports=[other])
    for allowed in (module, module.partition(".")[0]):
        assert name in str(config.load_experiment(str(path), allow_imports=["x", allowed]))


def test_code_of_an_override_needs_permission_too():
    override = ["model.name=my_package.models:mine"]
    with pytest.raises(config.ConfigError, match="--allow_import=my_package"):
        config.load_experiment("compact", override)
    assert config.load_experiment("compact", override, allow_imports=["my_package"])


def test_networks_of_keras_are_no_code():
    for family in registry.FAMILIES:
        name = f"{family}_{KERAS_PREFIX}EfficientNetB0"
        assert config.load_experiment("compact", [f"model.name={name}"]).model.name == name


def test_missing_huge_and_binary_configs(tmp_path):
    with pytest.raises(config.ConfigError, match="file or the name of a shipped config"):
        config.load_experiment(str(tmp_path / "none.textproto"))
    (tmp_path / "huge").write_text("#" * (config.MAX_CONFIG_BYTES + 1))
    with pytest.raises(config.ConfigError, match="1 MiB"):
        config.load_experiment(str(tmp_path / "huge"))
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(config.ConfigError, match="UTF-8"):
        config.load_experiment(str(tmp_path / "binary"))


def test_the_originals_configs_are_read():
    text = 'model_path: "m" image_scales: .25 delf_local_config { score_threshold: 100.0 }'
    message = config.parse(text, delf_config_pb2.DelfConfig, source="delf.pbtxt")
    assert message.delf_local_config.use_pca
    assert message.delf_local_config.max_feature_num == 1000


def test_fingerprint_and_set_fields():
    message = _parse(GOOD)
    assert config.set_fields(message.model) == {"name": "delg_resnet50", "embedding_dim": 512}
    before = config.fingerprint(message)
    assert before == config.fingerprint(_parse(GOOD))
    assert before != config.fingerprint(message, "more")
    message.model.embedding_dim = 1
    assert before != config.fingerprint(message)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("weight_decay: 1", "training.optimizer.weight_decay"),
        ("arcface_margin: 1", "training.losses.margin"),
        ("attention_loss_weight: 1", "training.losses.attention_weight"),
        ("tuples { }", "training.input.tuples"),
    ],
)
def test_fields_of_before_the_sections_are_refused_with_the_new_name(old, new):
    text = f"training {{ {old} }}"
    with pytest.raises(config.ConfigError, match=f"It is now {new}\\."):
        config.parse(text, experiment_pb2.Experiment, source="mine")
    name = old.partition(":")[0].partition(" ")[0]
    with pytest.raises(config.ConfigError, match=f"It is now {new}\\."):
        config.apply_override(experiment_pb2.Experiment(), f"training.{name}=1")


def test_a_section_given_as_a_value_is_told():
    with pytest.raises(config.ConfigError, match="A section is written NAME"):
        config.parse('training { optimizer: "sgd" }', experiment_pb2.Experiment, source="mine")


def test_arguments_are_what_is_set_and_the_functions_own_defaults():
    def search(needed, num_neighbors=7, alpha=2.0, other=1):
        return needed, num_neighbors, alpha, other

    def first(alpha=5.0):
        return alpha

    section = experiment_pb2.ExpansionConfig()
    assert config.arguments(section, search) == {"num_neighbors": 7, "alpha": 2.0}
    assert config.arguments(section, first, search)["alpha"] == 5.0
    section.num_neighbors = 3
    assert config.arguments(section, search) == {"num_neighbors": 3, "alpha": 2.0}


def test_no_search_setting_has_two_defaults():
    """What a config leaves out of search and re-ranking is said by delf_tf.retrieval alone."""
    experiment = experiment_pb2.Experiment.DESCRIPTOR
    own = {"type", "max_results", "method"}
    for name in ("index", "rerank", "query_expansion", "global_rerank"):
        section = experiment.fields_by_name[name].message_type
        below = [one.message_type for one in section.fields if one.message_type is not None]
        for message in (section, *below):
            named = {one.name for one in message.fields if one.has_default_value}
            assert named <= own
