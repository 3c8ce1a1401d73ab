"""The reproduction: protocol, data, results file, statistics, and runs from end to end on synthetic images."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from scipy import stats

import gradreg_torch
import numpy as np
import torch
from gradreg_core.cli.main import main
from gradreg_core.errors import DataFileError, InputError, UnsupportedError
from gradreg_core.presets import DataGrad, SpectReg, WeightDecay
from gradreg_experiments.paper import cost, frameworks, tables, toy
from gradreg_experiments.paper import data as mnist
from gradreg_experiments.paper.experiments import EXPERIMENTS, SIZES, Cell, Choices, jobs, select
from gradreg_experiments.paper.network import build, initialise, parameter_count
from gradreg_experiments.paper.page import make_page
from gradreg_experiments.paper.protocol import Job, Protocol, split
from gradreg_experiments.paper.results import Results
from gradreg_experiments.paper.run import BACKENDS, prepare, run_job, run_together, trainer
from gradreg_experiments.paper.schedule import Masks, Schedule
from gradreg_experiments.paper.summary import summarise
from gradreg_experiments.paper.sweep import missing, sweep
from gradreg_torch import networks

TINY = Protocol(train_size=40, steps=4, batch=10)


def write_idx(path: Path, array: np.ndarray) -> None:
    header = bytes((0, 0, 8, array.ndim)) + b"".join(int(n).to_bytes(4, "big") for n in array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Blurred bars at places that tell the class, 120 to train and 60 to test with."""
    where = tmp_path_factory.mktemp("idx")
    rng = np.random.default_rng(0)
    for name, count in (("train", 120), ("t10k", 60)):
        labels = rng.integers(0, 10, count)
        images = rng.integers(0, 40, (count, 28, 28))
        for image, label in zip(images, labels, strict=True):
            image[4 + 2 * label : 7 + 2 * label, 5:23] += 200
        write_idx(where / f"{name}-images-idx3-ubyte", images)
        write_idx(where / f"{name}-labels-idx1-ubyte", labels)
    return where


@pytest.fixture(scope="module")
def files(folder: Path) -> mnist.Mnist:
    return mnist.load(folder, unverified=True)


def job(backend: str = "torch", protocol: Protocol = TINY, reg: object = None, seed: int = 1) -> Job:
    terms = WeightDecay(5e-4) if reg is None else reg + WeightDecay(5e-4)
    return Job(protocol, terms, seed, backend, "synthetic")


class TestProtocol:
    def test_networks_have_the_papers_sizes(self) -> None:
        assert parameter_count(build(Protocol())) == 61_706
        assert parameter_count(build(Protocol(network="lenettuned"))) == 255_230

    def test_initial_weights_have_the_authors_deviations(self) -> None:
        params = initialise(build(Protocol(network="lenettuned")), 3)
        third = params["7.weight"]
        assert third.shape == (1600, 120)
        assert third.std() == pytest.approx(np.sqrt(4 / (1600 + 3000)), rel=0.02)
        assert params["9.weight"].std() == pytest.approx(np.sqrt(2 / (120 + 84)), rel=0.02)
        assert params["3.weight"].std() == pytest.approx(np.sqrt(4 / (25 * (32 + 64))), rel=0.02)
        assert all(not value.any() for path, value in params.items() if path.endswith("bias"))

    def test_the_learning_rate_falls_after_5000_and_7500(self) -> None:
        rates = [Protocol().rate(step) for step in (0, 5000, 5001, 7500, 7501, 10_000)]
        assert rates == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-5])

    @pytest.mark.parametrize(
        "change",
        [
            {"train_size": 41},
            {"standardise": "train"},
            {"penalty_pass": "shared"},
            {"label_smoothing": 0.1},
            {"dtype": "float64"},
            {"activation": "gelu"},
        ],
    )
    def test_every_setting_changes_the_key(self, change: dict[str, object]) -> None:
        assert job(protocol=replace(TINY, **change)).key != job().key

    def test_regularizer_seed_backend_and_data_change_the_key(self) -> None:
        base = job(reg=SpectReg(0.01))
        others = [
            job(reg=SpectReg(0.02)),
            job(reg=SpectReg(0.01, draw="per_batch")),
            job(reg=SpectReg(0.01), seed=2),
            job("jax", reg=SpectReg(0.01)),
            replace(base, data="other"),
        ]
        assert len({base.key, *(each.key for each in others)}) == 6
        assert job(reg=SpectReg(0.01)).key == base.key

    def test_the_keys_of_published_results_stay(self) -> None:
        wanted = jobs(EXPERIMENTS["table1"](Protocol(), Choices()), [1], "torch", "b2d8f5bf39174ee5")
        assert wanted[0].key == "bf14e49463fb9952"

    def test_only_penalties_on_logits_go_apart_under_dropout(self) -> None:
        dropout = replace(TINY, before_last="dropout")
        reg = DataGrad(1.0) + SpectReg(0.1) + WeightDecay(0.5)
        shared, apart = split(dropout, reg)
        assert shared == DataGrad(1.0) + WeightDecay(0.5)
        assert apart is not None
        assert apart.terms == (SpectReg(0.1),)
        assert split(TINY, reg) == (reg, None)
        assert split(replace(dropout, penalty_pass="shared"), reg) == (reg, None)

    @pytest.mark.parametrize("wrong", [{"network": "vgg"}, {"keep": 0.0}, {"steps": 0}, {"mixup": -1.0}])
    def test_wrong_settings_are_refused(self, wrong: dict[str, object]) -> None:
        with pytest.raises(InputError, match="Protocol"):
            Protocol(**wrong)


class TestExperiments:
    def test_table1_is_the_papers(self) -> None:
        cells = EXPERIMENTS["table1"](Protocol(), Choices())
        assert len(cells) == 9
        (best,) = [cell for cell in cells if cell.name == "Dropout/DataGrad"]
        assert best.paper == (97.98, 0.12)
        assert best.make(1) == DataGrad(50.0)
        (spect,) = [cell for cell in cells if cell.name == "Batchnorm/SpectReg"]
        assert spect.make(4) == SpectReg(0.001, seed=4, draw="per_batch")

    def test_figure1_left_has_six_methods_at_every_size_and_the_codes_jacreg(self) -> None:
        cells = EXPERIMENTS["figure1-left"](Protocol(), Choices())
        assert len(cells) == 6 * len(SIZES)
        weights = {
            choice: [
                cell.make(1).terms[0].weight
                for cell in EXPERIMENTS["figure1-left"](Protocol(), Choices(jacreg=choice))
                if cell.column == "JacReg"
            ]
            for choice in ("code", "tuned")
        }
        assert weights["code"][2] == 0.03
        assert weights["tuned"][2] == 1.0

    def test_shared_cells_are_one_run(self) -> None:
        table, variants = (EXPERIMENTS[name](Protocol(), Choices()) for name in ("table1", "variants"))
        keys = [{cell.job(1, "torch", "x").key for cell in cells} for cells in (table, variants)]
        assert len(keys[0] & keys[1]) == 2  # NoGR and DataGrad with dropout

    def test_first_seeds_come_first(self) -> None:
        found = jobs(EXPERIMENTS["table1"](Protocol(), Choices()), [1, 2], "torch", "x")
        assert [each.seed for each in found] == [1] * 9 + [2] * 9

    def test_select(self) -> None:
        cells = EXPERIMENTS["table1"](Protocol(), Choices())
        assert [cell.name for cell in select(cells, ["dropout/*"])] == [
            "Dropout/NoGR",
            "Dropout/SpectReg",
            "Dropout/DataGrad",
        ]
        with pytest.raises(InputError, match="matches none of Dropout/NoGR"):
            select(cells, ["Dropuot/*"])


class TestData:
    def test_the_subset_is_the_authors_permutation(self, files: mnist.Mnist) -> None:
        found = mnist.split(files, TINY, seed=7)
        chosen = np.random.RandomState(7).permutation(100)[:40]
        assert np.array_equal(found.train.y, files.train_labels[chosen])
        assert np.array_equal(found.held_out.y, files.train_labels[-20:])
        for part in found:
            assert part.x.mean() == pytest.approx(0, abs=1e-5)
            assert part.x.std() == pytest.approx(1, abs=1e-5)
        shared = mnist.split(files, replace(TINY, standardise="train"), seed=7)
        assert shared.official.mean == shared.train.mean

    def test_other_content_than_mnists_is_refused(self, folder: Path) -> None:
        with pytest.raises(DataFileError, match=r"train images are not the original MNIST's.*--unverified-data"):
            mnist.load(folder)

    def test_too_large_a_subset_is_refused(self, files: mnist.Mnist) -> None:
        with pytest.raises(InputError, match="train_size is 101, and there are 100"):
            mnist.split(files, replace(TINY, train_size=101), 1)

    def test_a_malformed_file_is_refused(self, folder: Path, tmp_path: Path) -> None:
        for path in folder.iterdir():
            (tmp_path / path.name).write_bytes(path.read_bytes()[:-1])
        with pytest.raises(DataFileError, match="after the header"):
            mnist.load(tmp_path, unverified=True)


class TestSchedule:
    def test_steps_do_not_depend_on_the_cut(self) -> None:
        protocol = replace(TINY, before_last="dropout", mixup=0.2)
        schedule = Schedule(protocol, build(protocol), 3)
        whole, tail = schedule.steps(0, 4), schedule.steps(2, 4)
        (path,) = whole.masks
        assert np.array_equal(whole.masks[path][2:], tail.masks[path])
        assert np.array_equal(whole.partners[2:], tail.partners)
        assert np.array_equal(whole.shares[2:], tail.shares)
        assert not np.array_equal(whole.masks[path], whole.other_masks[path])
        assert set(np.unique(whole.masks[path])) == {0.0, 2.0}

    def test_parts_of_a_batch_share_no_mask(self) -> None:
        rows = np.arange(6)[:, None]
        masks = Masks({"8": rows})
        for counts in ((6,), (2, 4), (6,)):
            assert [row for count in counts for row in masks.next(count)["8"][:, 0]] == list(range(6))
        assert Masks({}).next(3) == {}

    def test_an_epoch_sees_every_image_once(self) -> None:
        batches = Schedule(TINY, build(TINY), 1).batches
        assert sorted(batches.ravel()) == list(range(40))


class TestTraining:
    @pytest.mark.parametrize("backend", BACKENDS)
    def test_one_run(self, backend: str, files: mnist.Mnist) -> None:
        protocol = replace(TINY, before_last="dropout")
        result = run_job(job(backend, protocol, SpectReg(0.01, draw="per_batch")), files)
        assert 0 <= result["accuracy"]["test"] <= 100
        assert len(result["robustness"]["pgd"]) == 3
        assert result["jacobian_frobenius"] > 0
        assert not result["diverged"]
        json.dumps(result, allow_nan=False)

    @pytest.mark.parametrize(
        ("before_last", "reg", "extra"),
        [
            ("dropout", SpectReg(0.1, draw="per_batch"), {}),
            ("dropout", DataGrad(0.1, fraction=0.5), {}),
            ("dropout", DataGrad(0.1, side="input", method="difference"), {}),
            ("batchnorm", DataGrad(0.1), {}),
            ("none", None, {"mixup": 0.3, "label_smoothing": 0.1, "activation": "gelu"}),
        ],
        ids=["dropout", "dropout, half a batch", "dropout, difference", "batchnorm", "mixup"],
    )
    def test_frameworks_start_on_the_same_curve(
        self, before_last: str, reg: object, extra: dict[str, object], files: mnist.Mnist
    ) -> None:
        protocol = replace(TINY, before_last=before_last, dtype="float64", **extra)
        curves = {}
        for backend in BACKENDS:
            each = job(backend, protocol, reg)
            curves[backend] = trainer(backend).train(prepare(each, mnist.split(files, protocol, 1)))[1]
        for backend in BACKENDS[1:]:
            # Four steps: rounding of 1e-16, amplified by Adam's division where a gradient is near 0.
            assert curves[backend] == pytest.approx(curves["torch"], rel=1e-8)

    @pytest.mark.parametrize("name", [name for name in EXPERIMENTS if name != "figure1-left"])
    def test_every_cell_trains(self, name: str, files: mnist.Mnist) -> None:
        for cell in EXPERIMENTS[name](TINY, Choices()):
            protocol = replace(cell.protocol, train_size=TINY.train_size, steps=2)
            each = cell._replace(protocol=protocol).job(1, "torch", "synthetic")
            _, losses = trainer("torch").train(prepare(each, mnist.split(files, protocol, 1)))
            assert np.isfinite(losses).all(), cell.name

    def test_the_penalty_is_trained(self, files: mnist.Mnist) -> None:
        found = {
            weight: run_job(job("torch", replace(TINY, steps=25), DataGrad(weight)), files)["jacobian_frobenius"]
            for weight in (0.0, 100.0)
        }
        assert found[100.0] < 0.8 * found[0.0]

    def test_several_seeds_in_jax_train_as_alone(self, files: mnist.Mnist) -> None:
        protocol = replace(TINY, before_last="dropout", dtype="float64")
        wanted = [job("jax", protocol, SpectReg(1.0, seed=seed), seed=seed) for seed in (1, 2)]
        found, alone = run_together(wanted, files), run_job(wanted[1], files)
        assert [each["key"] for each in found] == [each.key for each in wanted]
        assert (found[1]["together"], alone["together"]) == (2, 1)
        assert found[1]["losses"] == pytest.approx(alone["losses"], rel=1e-6)  # as many digits as are written
        assert found[1]["jacobian_frobenius"] == pytest.approx(alone["jacobian_frobenius"], rel=1e-4)  # float32

    def test_runs_that_cannot_train_together_are_refused(self, files: mnist.Mnist) -> None:
        for regs, message in (
            ((SpectReg(1.0), SpectReg(2.0)), "several protocols or regularizers"),
            ((SpectReg(1.0, seed=1) + DataGrad(1.0), SpectReg(1.0, seed=2) + DataGrad(1.0)), "expected one seed"),
        ):
            with pytest.raises(InputError, match=message):
                run_together([job("jax", TINY, reg, seed=index) for index, reg in enumerate(regs)], files)
        options = ["--data-dir", "nowhere", "--together", "2"]
        found = CliRunner().invoke(main, ["reproduce", "figure1-right", *options])
        assert found.exit_code == 2
        assert "--backend jax" in found.output

    def test_a_backend_that_does_not_train_is_refused(self) -> None:
        with pytest.raises(UnsupportedError, match="choose one of torch, jax, tensorflow"):
            trainer("numpy")


def stand_in(each: Job, files: object, tick: object = None) -> dict[str, object]:
    """Stands in for a run."""
    return {"key": each.key, "accuracy": {"test": 90.0 + each.seed}}


class TestResults:
    def test_finished_runs_are_not_repeated(self, tmp_path: Path) -> None:
        path = tmp_path / "results.jsonl"
        wanted = [job(seed=seed) for seed in (1, 2, 3)]
        assert sweep(wanted[:2], None, Results(path), function=stand_in) == 2
        before = path.read_bytes()
        results = Results(path)
        assert missing(wanted, results) == [wanted[2]]
        assert sweep(wanted, None, results, function=stand_in) == 1
        assert path.read_bytes().startswith(before)
        assert len(Results(path)) == 3

    def test_a_line_cut_short_is_dropped_and_the_rest_kept(self, tmp_path: Path) -> None:
        path = tmp_path / "results.jsonl"
        results = Results(path)
        results.add({"key": "a", "value": 1})
        with path.open("ab") as stream:
            stream.write(b'{"key":"b","val')
        found = Results(path)
        assert len(found) == 1
        found.add({"key": "c", "value": 3})
        assert [json.loads(line)["key"] for line in path.read_text().splitlines()] == ["a", "c"]

    def test_a_result_without_the_end_of_its_line_is_kept(self, tmp_path: Path) -> None:
        path = tmp_path / "results.jsonl"
        path.write_text('{"key":"a"}\n{"key":"b"}')
        Results(path).add({"key": "c"})
        assert [json.loads(line)["key"] for line in path.read_text().splitlines()] == ["a", "b", "c"]

    def test_a_file_that_was_removed_or_edited_while_a_sweep_runs(self, tmp_path: Path) -> None:
        path = tmp_path / "results.jsonl"
        results = Results(path)
        for key in "ab":
            results.add({"key": key, "value": 10})
        path.unlink()
        results.add({"key": "c"})
        assert path.read_text() == '{"key":"c"}\n'
        results.add({"key": "d"})
        path.write_text('{"key":"d"}\n')  # a line taken out
        results.add({"key": "e"})
        assert [json.loads(line)["key"] for line in path.read_text().splitlines()] == ["d", "e"]
        path.write_text('{"key":"long", "value": 12}\n{"key":"e"}\n')  # as long as before, with other lines
        results.add({"key": "f"})
        assert [each["key"] for each in results] == ["long", "e", "f"]

    def test_two_writers(self, tmp_path: Path) -> None:
        first, second = Results(tmp_path / "r.jsonl"), Results(tmp_path / "r.jsonl")
        first.add({"key": "a"})
        second.add({"key": "a"})
        second.add({"key": "b"})
        first.add({"key": "c"})
        assert len((tmp_path / "r.jsonl").read_text().splitlines()) == 3

    def test_a_line_that_is_no_result_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "results.jsonl"
        path.write_text('{"key":"a"}\nnonsense\n')
        with pytest.raises(DataFileError, match="got b'nonsense"):
            Results(path)

    def test_a_killed_command_goes_on_where_it_was(self, folder: Path, tmp_path: Path) -> None:
        command = [
            *(sys.executable, "-m", "gradreg_core.cli.main", "reproduce", "table1", "--data-dir", str(folder)),
            *("--unverified-data", "--out", str(tmp_path), "--steps", "2", "--seeds", "1", "--cells", "baseline/*"),
        ]
        script = (
            "import sys, dataclasses, gradreg_experiments.paper.command as c\n"
            "c.Protocol = lambda **o: dataclasses.replace(c_Protocol(**o), train_size=40)\n"
        ).replace("c_Protocol", "__import__('gradreg_experiments.paper.protocol').protocol.Protocol")
        code = f"{script}from gradreg_core.cli.main import main\nmain(sys.argv[1:])"
        arguments = [sys.executable, "-c", code, *command[3:]]
        path = tmp_path / "results.jsonl"
        process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + 60
        while not path.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        kept = Results(path)
        assert len(kept) >= 1
        done = subprocess.run(arguments, capture_output=True, text=True, check=True)
        assert f"{3 - len(kept)} of 3 runs done now" in done.stdout
        lines = path.read_text().splitlines()
        assert len({json.loads(line)["key"] for line in lines}) == len(lines) == 3
        for ending in ("md", "png", "svg"):
            assert (tmp_path / f"table1-torch-steps-2.{ending}").stat().st_size > 0


class TestSummary:
    def test_numbers_against_scipy(self, tmp_path: Path) -> None:
        cells = [
            Cell("row", "NoGR", TINY, lambda seed: None, paper=(97.0, 0.2)),
            Cell("row", "DataGrad", TINY, lambda seed: DataGrad(1.0), paper=(98.0, 0.1)),
        ]
        base, ours = [97.1, 97.3, 96.9, 97.2], [97.9, 98.3, 97.8]
        results = Results(tmp_path / "results.jsonl")
        for cell, values in zip(cells, (base, ours), strict=True):
            for seed, value in enumerate(values, 1):
                results.add({"key": cell.job(seed, "torch", "x").key, "accuracy": {"test": value}})
        plain, gained = summarise(cells, range(1, 11), "torch", "x", results)
        assert plain.mean == pytest.approx(np.mean(base))
        assert plain.deviation == pytest.approx(np.std(base, ddof=1))
        assert plain.difference == pytest.approx(np.mean(base) - 97.0)
        assert plain.gain is None
        assert gained.gain == pytest.approx(np.mean(np.array(ours) - base[:3]))
        assert gained.p_gain == pytest.approx(stats.ttest_rel(ours, base[:3]).pvalue)
        rng = np.random.default_rng(0)
        theirs = rng.standard_normal(10)
        theirs = 98.0 + 0.1 * (theirs - theirs.mean()) / theirs.std(ddof=1)
        assert gained.p_paper == pytest.approx(stats.ttest_ind(ours, theirs, equal_var=False).pvalue)

    def test_what_was_not_run_is_not_claimed(self, tmp_path: Path) -> None:
        cells = EXPERIMENTS["table1"](Protocol(), Choices())
        rows = summarise(cells, [1], "torch", "x", Results(tmp_path / "none.jsonl"))
        assert all(each.mean is None for each in rows)
        headings, lines = tables.table(rows)
        assert headings[4] == "paper (sd)"
        assert lines == []
        assert "-, n = 0<br>paper: 97.98 (0.12)" in tables.grid(rows)

    def test_where_the_paper_has_no_numbers_its_columns_are_left_out(self, tmp_path: Path) -> None:
        cells = EXPERIMENTS["figure1-left"](Protocol(), Choices())
        results = Results(tmp_path / "results.jsonl")
        results.add({"key": cells[1].job(1, "torch", "x").key, "accuracy": {"test": 97.0}})
        rows = summarise(cells, [1], "torch", "x", results)
        assert tables.table(rows) == (
            ["cell", "penalty", "seeds", "accuracy % (sd)", "gain over weight decay", "p of gain"],
            [["500/DataGrad", "`DataGrad(50.0)`", "1", "97.00", "-", "-"]],
        )
        assert tables.grid(rows).splitlines()[2:] == ["| 500 | 97.00, n = 1 |"]


class TestToyAndFrameworks:
    def test_flatter_with_more_weight(self) -> None:
        found = [toy.run_toy(each) for each in toy.jobs([1], "torch", steps=120, weights=(0.0, 30.0))]
        for where in ("train", "random"):
            assert found[1]["gradient"][where] < 0.5 * found[0]["gradient"][where]
        assert len(found[0]["curve"]) == 401

    def test_weights_are_relative_to_a_sum(self) -> None:
        each = toy.jobs([1], "torch", weights=(10.0,))[0]
        assert each.regularizer == SpectReg(0.2, seed=1, draw="per_batch")
        assert toy.weight_of(each) == 10.0

    def test_drift(self) -> None:
        found = frameworks.Curves("x", "float32", {"a": np.ones(4), "b": np.array([1, 1 + 1e-4, 1, 1.5])})
        assert found.drift("b") == pytest.approx([0, 1e-4, 1e-4, 0.5])
        assert found.together("b") == {1e-5: 1, 1e-3: 3, 1e-1: 3}


def test_spectreg_of_one_direction_penalises_nothing_before_batch_normalisation() -> None:
    """As the page says of Table 1: the projected sum over a batch does not depend on the images."""
    network = build(replace(TINY, before_last="batchnorm"))
    model = networks.Module(network, initialise(network, 1), torch.float64)
    x = torch.tensor(np.random.default_rng(0).normal(size=(8, 28, 28, 1)))

    def penalty(draw: str) -> float:
        return gradreg_torch.penalty(model, x, None, SpectReg(1.0, draw=draw), batch_norm="allow").item()

    assert penalty("per_batch") < 1e-20 * penalty("per_sample")  # squares of rounding errors of 1e-16


class TestCost:
    def test_of_another_network_is_refused(self, folder: Path, tmp_path: Path) -> None:
        arguments = ["--data-dir", str(folder), "--unverified-data", "--out", str(tmp_path), "--report-only"]
        found = CliRunner().invoke(main, ["reproduce", "cost", *arguments, "--network", "lenettuned"])
        assert found.exit_code == 2
        assert "the cost of a step is that of lenet" in found.output

    def test_runs_are_shared_with_table_1(self) -> None:
        table = {cell.job(1, "torch", "x").key: cell.name for cell in EXPERIMENTS["table1"](Protocol(), Choices())}
        cells = EXPERIMENTS["cost"](Protocol(), Choices())
        shared = {cell.name: table.get(cell.job(1, "torch", "x").key) for cell in cells}
        assert shared["DataGrad/none"] == shared["SpectReg/none"] == "Dropout/NoGR"
        assert shared["DataGrad/every=1"] == "Dropout/DataGrad"
        assert len({cell.job(1, "torch", "x").key for cell in cells}) == len(cells) - 1

    def test_points(self, tmp_path: Path) -> None:
        cells = EXPERIMENTS["cost"](Protocol(), Choices())[:3]
        results = Results(tmp_path / "results.jsonl")
        for cell, gain in zip(cells, (0.0, 0.8, 0.6), strict=True):
            for seed in (1, 2):
                each = cell.job(seed, "torch", "x")
                results.add({"key": each.key, "accuracy": {"test": 97 + gain + 0.1 * seed}})
        summaries = summarise(cells, [1, 2], "torch", "x", results)
        found = cost.points(summaries, {"DataGrad/every=1": 2.4, "DataGrad/every=2": 1.7})
        assert [each.cost for each in found] == [1.0, 2.4, 1.7]
        assert [each.part for each in found[1:]] == pytest.approx([1.0, 0.75])
        assert cost.rows(found)[2] == ("DataGrad/every=2", "1.70", "2", "97.75 (0.07)", "+0.60", "-", "75 %")
        assert len(cost.points(summaries, {})) == 1  # without a cost a setting has no place in the figure

    def test_a_file_that_holds_no_costs_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "cost.json").write_text("{}")
        with pytest.raises(DataFileError, match="Remove the file"):
            cost.read(tmp_path / "cost.json")

    def test_steps_are_measured_and_drawn(self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("gradreg_experiments.paper.command.Protocol", lambda **given: replace(TINY, **given))
        options = ["--data-dir", str(folder), "--unverified-data", "--out", str(tmp_path), "--steps", "2"]
        cells = ["--cells", "DataGrad/none", "--cells", "DataGrad/every=4", "--seeds", "1"]
        found = CliRunner().invoke(main, ["reproduce", "cost", *options, *cells], catch_exceptions=False)
        assert "| DataGrad/every=4 |" in found.output
        costs = cost.read(tmp_path / "cost-torch-steps-2.json")
        assert set(costs) >= {"plain", "DataGrad/every=16", "SpectReg/jvp"}
        assert all(each > 0 for each in costs.values())
        assert "<svg" in (tmp_path / "cost-torch-steps-2.svg").read_text()


class TestPage:
    def test_says_what_was_run_and_what_was_not(self, tmp_path: Path) -> None:
        results = Results(tmp_path / "results.jsonl")
        empty = make_page(tmp_path, results)
        assert "| table1 | torch | 0 of 90 | 0 |" in empty
        assert empty.count("Not run yet.") == 7
        cells = EXPERIMENTS["table1"](Protocol(), Choices())[:3]
        for cell, gain in zip(cells, (0.0, 0.5, -0.5), strict=True):
            for seed in (1, 2, 3):
                each = cell.job(seed, "torch", mnist.MNIST_DIGEST)
                results.add({"key": each.key, "accuracy": {"test": 97 + gain * (1 + 0.01 * seed) + 0.1 * seed}})
        page = make_page(tmp_path, results)
        assert "| table1 | torch | 9 of 90 | 0 |" in page
        assert "Dropout/SpectReg beats NoGR: +0.51 points over 3 seeds, significant at 5 %" in page
        assert "Dropout/DataGrad does not beat NoGR: -0.51 points" in page
        assert "Baseline/DataGrad" not in page
        assert page.count("### torch") == 1, "the other experiments have nothing but runs of Table 1"
        for cell in EXPERIMENTS["table1"](Protocol(), Choices())[3:5]:
            for seed in (1, 2):
                results.add({"key": cell.job(seed, "torch", mnist.MNIST_DIGEST).key, "accuracy": {"test": 97 + seed}})
        assert "Baseline/SpectReg: +0.00 points over NoGR at each of 2 seeds." in make_page(tmp_path, results)

    def test_a_gain_is_over_the_seeds_that_both_have(self, tmp_path: Path) -> None:
        results = Results(tmp_path / "results.jsonl")
        plain, spectreg, *_ = EXPERIMENTS["table1"](Protocol(), Choices())
        for cell, seeds in ((plain, range(1, 3)), (spectreg, range(1, 6))):
            for seed in seeds:
                key = cell.job(seed, "torch", mnist.MNIST_DIGEST).key
                results.add({"key": key, "accuracy": {"test": 97 + 0.1 * seed + (seed % 2 if cell is spectreg else 0)}})
        assert "NoGR: +0.50 points over 2 seeds, not significant" in make_page(tmp_path, results)

    def test_ranks_the_methods_at_each_size(self, tmp_path: Path) -> None:
        results = Results(tmp_path / "results.jsonl")
        gains = {
            "weight decay": (0.0, 0.0, 0.0),
            "DataGrad": (1.0, -1.0, 0.6),
            "SpectReg": (0.9, 0.8, 1.0),
            "confidence penalty": (-2, 2, -0.3),
        }
        for cell in EXPERIMENTS["figure1-left"](Protocol(), Choices())[:4]:
            for seed, gain in enumerate(gains[cell.column], start=1):
                key = cell.job(seed, "jax", mnist.MNIST_DIGEST).key
                results.add({"key": key, "accuracy": {"test": 90 + seed + gain}})
        page = make_page(tmp_path, results)
        assert "\n- 500 images: SpectReg +0.90*, DataGrad +0.20, confidence penalty -0.10\n" in page


class TestCommand:
    def test_data_are_asked_for(self) -> None:
        found = CliRunner().invoke(main, ["reproduce", "table1"])
        assert found.exit_code == 2
        assert "train-images-idx3-ubyte" in found.output
        assert "Nothing is downloaded" in found.output

    def test_figure1_right(self, tmp_path: Path) -> None:
        arguments = ["reproduce", "figure1-right", "--seeds", "1", "--steps", "3", "--out", str(tmp_path)]
        found = CliRunner().invoke(main, arguments, catch_exceptions=False)
        assert found.exit_code == 0, found.output
        assert "| 10 | 1 |" in (tmp_path / "figure1-right-torch.md").read_text()
        assert (tmp_path / "figure1-right-torch.svg").stat().st_size > 0
        again = CliRunner().invoke(main, arguments, catch_exceptions=False)
        assert "0 of 7 runs done now" in again.output

    def test_figure1_left_from_results(self, folder: Path, tmp_path: Path) -> None:
        files = mnist.load(folder, unverified=True)
        results = Results(tmp_path / "results.jsonl")
        for each in jobs(EXPERIMENTS["figure1-left"](Protocol(), Choices()), [1, 2], "jax", mnist.digest(files))[:20]:
            results.add(stand_in(each, files))
        arguments = [
            *("reproduce", "figure1-left", "--backend", "jax", "--data-dir", str(folder), "--unverified-data"),
            *("--out", str(tmp_path), "--report-only"),
        ]
        found = CliRunner().invoke(main, arguments, catch_exceptions=False)
        assert found.exit_code == 0, found.output
        assert (tmp_path / "figure1-left-jax.png").stat().st_size > 0
        assert "91.00, n = 1" in (tmp_path / "figure1-left-jax.md").read_text()
        usual = (tmp_path / "figure1-left-jax.md").read_bytes()
        found = CliRunner().invoke(main, [*arguments, "--network", "lenettuned", "--test", "official"])
        assert found.exit_code == 0, found.output
        assert (tmp_path / "figure1-left-jax.md").read_bytes() == usual, "other settings have files of their own"
        other = (tmp_path / "figure1-left-jax-network-lenettuned-measure-official.md").read_text()
        assert "(network=lenettuned, measure=official)" in other
