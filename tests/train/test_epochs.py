"""Repeated data: epochs counted as they are read, and a proxy that repeats its sources as often as the target."""

import json
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import raystudy.train.training
from raystudy.artifacts.shards import SourceSize, ViewSource, open_view, source_sizes
from raystudy.errors import SpecError
from raystudy.specs.base import round_significant
from raystudy.specs.epochs import expected_epochs, windows_read
from raystudy.specs.load import load_study
from raystudy.specs.run import NUMERICS, ResolvedDecoder, TrainRun
from raystudy.specs.training import AdamW, RunSettings, WarmupStableDecay
from raystudy.study.repeats import repeat_lines, repeats
from raystudy.study.state import StudyInputs, StudyState
from raystudy.study.waves import make_wave
from raystudy.train.run import train
from raystudy.train.stream import SampleStream
from raystudy.train.training import Training
from tests.planted import inputs_of, study_spec

MATCHING = {"steps": 10, "batch_tokens": 64, "match_epochs": "target"}
MODELS = {
    "proxy": {"kind": "decoder", "layers": 1, "width": 8, "heads": 1, "context": 8},
    "target": {"kind": "decoder", "layers": 1, "width": 16, "heads": 1, "context": 8, "training": {"steps": 35}},
}


def read(stream, count):
    sources, windows = stream.samples(0, count)
    return [set(windows[sources == source].tolist()) for source in (0, 1)]


def a_run(view, steps, context=8, **settings) -> TrainRun:
    shape = ResolvedDecoder(kind="decoder", layers=1, width=8, heads=1, context=context, vocabulary=64)
    given = {"lr": 1e-3, "schedule": WarmupStableDecay(kind="wsd"), "optimizer": AdamW(), "clip": 1.0}
    resolved = RunSettings(steps=steps, batch_sequences=4, **given, **settings)
    return TrainRun(kind="train", shards=view, model=shape, settings=resolved, seed=0, numerics=NUMERICS)


def test_a_stream_that_lends_all_windows_is_the_stream_without_a_limit():
    plain, same = SampleStream([0.6, 0.4], [100, 30], 5), SampleStream([0.6, 0.4], [100, 30], 5, [100, 30])
    assert [a.tolist() for a in plain.samples(0, 700)] == [a.tolist() for a in same.samples(0, 700)]


def test_fewer_windows_are_a_nested_choice_by_seed_and_each_is_read_as_often():
    small, large = (SampleStream([0.6, 0.4], [100, 30], 5, reads) for reads in ([20, 6], [50, 15]))
    assert [len(windows) for windows in read(small, 400)] == [20, 6]
    for fewer, more in zip(read(small, 400), read(large, 400), strict=True):
        assert fewer < more
    other = SampleStream([0.6, 0.4], [100, 30], 6, [20, 6])
    assert read(other, 400) != read(small, 400)
    sources, windows = small.samples(0, 400)
    times = np.bincount(windows[sources == 0], minlength=100)
    assert set(times[times > 0]) <= {times.max(), times.max() - 1}
    np.testing.assert_allclose(small.epochs(400), np.bincount(sources) / [20, 6])


@pytest.mark.parametrize("context", [8, 12])
def test_with_match_epochs_a_short_run_repeats_each_source_as_often_as_the_long_one_within_a_window(
    shard_storage, context
):
    storage, view, _ = shard_storage
    data = open_view(storage, view)
    long = a_run(view, steps=512)
    short = a_run(view, steps=64, context=context, windows_share=64 * context / (512 * 8))
    free = short.model_copy(update={"settings": short.settings.model_copy(update={"windows_share": None})})
    target, proxy, unmatched = (train(run, data, {}).epochs for run in (long, short, free))
    assert min(target) > 3
    for source, size in enumerate(source_sizes(storage, view)):
        windows = (size.num_tokens - 1) // context
        lent = -(-windows * short.num_tokens // long.num_tokens)
        # One window more or less to lend, and one sample more or less to read.
        assert abs(proxy[source] - target[source]) <= (target[source] + 1) / (lent - 1)
        assert unmatched[source] < target[source] / 3
        assert expected_epochs(size.weight, size.num_tokens, short) == pytest.approx(proxy[source], abs=2 / lent)
        assert expected_epochs(size.weight, size.num_tokens, long) == pytest.approx(target[source], abs=0.05)


def test_epochs_in_a_record_are_those_that_training_reads(shard_storage, monkeypatch):
    storage, view, _ = shard_storage
    times: dict[str, Counter[int]] = {}
    real = ViewSource.read_windows

    def counting(source, indices, context):
        times.setdefault(source.name, Counter()).update(indices.tolist())
        return real(source, indices, context)

    monkeypatch.setattr(ViewSource, "read_windows", counting)
    # The batch on which the logits' change is measured is not trained on.
    monkeypatch.setattr(Training, "first_sequences", lambda _: torch.zeros((1, 8), dtype=torch.int64))
    data = open_view(storage, view)
    run = a_run(view, steps=90, windows_share=0.25)
    epochs = train(run, data, {}).epochs
    for source, told in zip(data.sources, epochs, strict=True):
        lent = windows_read(source.windows(8), run.settings)
        read_once = times[source.name]
        assert len(read_once) == lent < source.windows(8) / 3
        assert told == sum(read_once.values()) / lent
        assert set(read_once.values()) <= {int(told), int(told) + 1}


def test_a_run_without_a_share_lends_all_windows_and_the_smallest_share_one_of_each_source(shard_storage, monkeypatch):
    storage, view, _ = shard_storage
    seen = []
    real = raystudy.train.training.SampleStream
    monkeypatch.setattr(raystudy.train.training, "SampleStream", lambda *given: seen.append(given) or real(*given))
    train(a_run(view, steps=2), open_view(storage, view), {})
    train(a_run(view, steps=2, windows_share=1e-9), open_view(storage, view), {})
    assert seen[0][3] == seen[0][1]
    assert seen[1][3] == [1, 1], "at least one window of each source"


@given(st.integers(1, 1000), st.integers(1, 1000), st.integers(1, 40))
@settings(deadline=None)
def test_a_share_of_the_windows_is_rounded_up_and_exact_where_it_is_a_whole_number(tokens, more, times):
    longer = tokens + more
    settings_at_share = a_run("x", 1, windows_share=round_significant(tokens / longer)).settings
    assert windows_read(times * longer, settings_at_share) == times * tokens
    read, exact = windows_read(10**7, settings_at_share), 10**7 * tokens / longer
    assert abs(read - exact) <= 1 + 2e-5 * exact


def test_match_epochs_changes_the_runs_of_the_shorter_model_alone():
    plain, matched = study_spec(models=MODELS), study_spec(models=MODELS, training=MATCHING)
    states = [StudyState(study, inputs_of(study), {}) for study in (plain, matched)]
    before, after = ([state.want(model, "a", 1e-2, 0).run for model in MODELS] for state in states)
    assert before[1].run_id == after[1].run_id
    assert before[0].run_id != after[0].run_id
    assert after[0].settings.windows_share == round(10 / 35, 6)
    # To six digits the same budget, which is how much an identity holds: all windows.
    near = {**MODELS, "proxy": {**MODELS["proxy"], "training": {"tokens": 64 * (10**9 - 1)}}}
    near["target"] = {**MODELS["target"], "training": {"tokens": 64 * 10**9}}
    close = study_spec(models=near, training=MATCHING)
    assert StudyState(close, inputs_of(close), {}).want("proxy", "a", 1e-2, 0).run.settings.windows_share is None
    # A model's own setting goes before the study's, and naming itself means all windows.
    own = {**MODELS, "proxy": {**MODELS["proxy"], "training": {"match_epochs": "proxy"}}}
    itself = study_spec(models=own, training=MATCHING)
    assert StudyState(itself, inputs_of(itself), {}).want("proxy", "a", 1e-2, 0).run_id == before[0].run_id


def test_a_model_that_matches_one_that_matches_the_target_repeats_as_the_target_does():
    middle = {**MODELS["proxy"], "training": {"steps": 20, "match_epochs": "target"}}
    small = {**MODELS["proxy"], "training": {"steps": 5, "match_epochs": "middle"}}
    models = {**MODELS, "middle": middle, "proxy": small}
    back = {**models, "target": {**MODELS["target"], "training": {"steps": 35, "match_epochs": "proxy"}}}
    for chosen in (models, back):
        study = study_spec(models=chosen)
        run = StudyState(study, inputs_of(study), {}).want("proxy", "a", 1e-2, 0).run
        assert run.settings.windows_share == round(5 / 35, 6)


def test_target_stands_for_the_truths_model_where_no_model_is_called_so():
    renamed = {"proxy": MODELS["proxy"], "big": MODELS["target"]}
    truth = {"kind": "tuned", "model": "big", "space": {"lr": {"grid": [1e-2]}}}
    low = {"kind": "reduced-lr", "model": "proxy", "lr": 1e-3}
    study = study_spec(models=renamed, training=MATCHING, protocols={"truth": truth, "low": low}, comparison={})
    assert StudyState(study, inputs_of(study), {}).want("proxy", "a", 1e-3, 0).run.settings.windows_share == round(
        10 / 35, 6
    )


def test_a_study_file_that_matches_no_model_is_refused(root):
    tiny = root / "search_spaces" / "tiny.yaml"
    with pytest.raises(SpecError, match=r"must be the name of a model, but got 'tarket'.*Did you mean 'target'"):
        load_study(tiny, ["training.match_epochs=tarket"])
    known = "protocols.known={kind: known, scores: {balanced: 1.0}}"
    names = "models={proxy: {kind: decoder, layers: 1, width: 16, heads: 1, context: 32}}"
    with pytest.raises(SpecError, match="'target' stands for the truth's model, but the truth 'known' has none"):
        load_study(tiny, [known, names, "truth=known", "training.match_epochs=target"])
    changes = ["models.target.training.match_epochs=proxy", "training.match_epochs=target"]
    assert load_study(tiny, changes).spec.models["target"].training.match_epochs == "proxy"


def test_what_will_repeat_is_told_before_anything_runs_for_each_source_and_model():
    study = study_spec(models=MODELS)
    state = StudyState(study, StudyInputs(inputs_of(study).shards, inputs_of(study).validation, 32), {})
    size, plenty = SourceSize("s", 1.0, 81), SourceSize("s", 1.0, 10**6)
    found = repeats(make_wave(state).wanted.values(), {"a": [size], "b": [plenty]})
    assert [repeat.as_dict() for repeat in found] == [
        {"recipe": "a", "source": "s", "epochs": {"target": 28.0, "proxy": 8.0}}
    ]
    assert json.dumps([repeat.as_dict() for repeat in found])
    lines = repeat_lines(found)
    assert lines[0] == "recipe 'a' holds too few tokens: source 's' is read 28 times by 'target', 8 times by 'proxy'"
    assert lines[1].startswith("`match_epochs: target` in `training:`")
    matched = study_spec(models=MODELS, training=MATCHING)
    wanted = make_wave(StudyState(matched, inputs_of(matched), {})).wanted.values()
    (same,) = repeats(wanted, {"a": [size]})
    assert same.epochs == {"target": 28.0, "proxy": pytest.approx(80 / 3)}
    assert len(repeat_lines([same])) == 1
