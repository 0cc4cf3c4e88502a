"""From the words of a command line to options: each flag is one option, and they are all there."""

from pathlib import Path

import pytest

from core.cli.generate import _networks, build_parser, options_from, plan_jobs, seeds_from
from core.config.generation import MAX_SEED, GenerationOptions, option_table
from core.errors import ConfigError

FLAGS = {
    "preset": ("--preset", "other"), "seed": ("--seed", 7), "resolution": ("--resolution", 512),
    "dense_steps": ("--steps", 9), "sparse_steps": ("--sparse-steps", 8), "iso_level": ("--iso", -0.25),
    "sparse_guidance": ("--sparse-guidance", 2.5), "faces": ("--faces", 999), "max_tokens": ("--max-tokens", 10),
    "background": ("--background", "alpha"), "device": ("--device", "cuda:1"), "dtype": ("--dtype", "float16"),
    "memory": ("--memory", "stage"),
    "interior": ("--interior", "flood"), "solver": ("--solver", "heun"), "guided_from": ("--guided-from", 0.75),
    "guided_until": ("--guided-until", 0.25), "unconditional_every": ("--unconditional-every", 2),
    "selection_every": ("--selection-every", 3),
    "remove_floaters": ("--no-remove-floaters", False), "remove_interior": ("--no-remove-interior", False),
}  # fmt: skip


def read(*words):
    return options_from(build_parser().parse_args(["a.png", *map(str, words)]))


@pytest.mark.parametrize("name", FLAGS)
def test_a_flag_sets_its_option_and_no_other(name):
    flag, value = FLAGS[name]
    assert read(*((flag,) if value is False else (flag, value))) == GenerationOptions(**{name: value})


def test_without_flags_the_options_are_the_defaults():
    assert read() == GenerationOptions()
    assert {*FLAGS, "dense_guidance"} == {option.name for option in option_table(GenerationOptions)}


def test_one_guidance_is_for_all_stages_unless_the_details_have_their_own():
    assert read("--guidance", 4) == GenerationOptions(dense_guidance=4.0, sparse_guidance=4.0)
    both = GenerationOptions(dense_guidance=4.0, sparse_guidance=0.0)
    assert read("--guidance", 4, "--sparse-guidance", 0) == both


def test_graphs_are_a_matter_of_this_machine_and_no_option():
    for words, expected in ((["--no-cuda-graphs"], False), ([], True)):
        arguments = build_parser().parse_args(["a.png", "--device", "cpu", *words])
        options = options_from(arguments)
        assert options == GenerationOptions(device="cpu")
        assert _networks(options, None, arguments.cuda_graphs).cuda_graphs is expected


def test_several_seeds_are_those_that_follow_the_first():
    def seeds(*words):
        return seeds_from(build_parser().parse_args(["a.png", *words]))

    assert seeds() == seeds("--seeds", "1", "--seed", "5") == []
    assert seeds("--seeds", "3", "--seed", "5") == [5, 6, 7]
    jobs = plan_jobs([Path("a.png"), Path("b/a.png")], "out", "ply", None, [5, 6])
    assert [job.output.name for job in jobs] == [f"{name}-seed{seed}.ply" for name in ("a", "a-2") for seed in (5, 6)]
    assert [job.seed for job in jobs] == [5, 6, 5, 6] and jobs[1].image == Path("a.png")
    with pytest.raises(ConfigError, match="one file for 2 meshes"):
        plan_jobs([Path("a.png")], "m.glb", None, None, [5, 6])
    with pytest.raises(ConfigError, match="--seeds is 0"):
        seeds("--seeds", "0")
    with pytest.raises(ConfigError, match="passes the largest"):
        seeds("--seeds", "2", "--seed", str(MAX_SEED))


def test_values_beyond_the_limits_are_told_as_everywhere():
    with pytest.raises(ConfigError, match="dense_steps is 0; it must be between 1 and 1000"):
        read("--steps", 0)


def test_another_command_may_add_to_the_arguments():
    """As the server's does; what it adds is no option."""
    parser = build_parser()
    parser.add_argument("--server")
    arguments = parser.parse_args(["a.png", "--server", "http://127.0.0.1:8493", "--seed", "4"])
    assert options_from(arguments) == GenerationOptions(seed=4) and arguments.server.endswith("8493")
