"""Gavel's tables are read whole, or refused with the rows that are wrong."""

from pathlib import Path

import pytest

from orchestrator.errors import DataError, NotFoundError
from orchestrator.simulation.gavel import read_mix, read_speeds

ISOLATED = "gpu,consolidated,model,batch_size,num_gpus,steps_per_s,samples_per_s\n"
COLOCATED = "gpu,consolidated,num_gpus,model1,batch1,model2,batch2,steps_per_s1,steps_per_s2\n"
ALONE = (
    ISOLATED + "v100,1,LM,5,1,10,50\nv100,1,LM,5,2,19,95\nv100,0,LM,5,1,9,45\nv100,1,A3C,,1,4,\n"
)
PAIRS = COLOCATED + "v100,1,1,LM,5,LM,5,6,7\nv100,1,1,LM,5,A3C,,8,2\nv100,1,1,A3C,,A3C,,0,0\n"


def folder_of(home: Path, alone: str = ALONE, pairs: str = PAIRS) -> Path:
    (home / "throughput_isolated.csv").write_text(alone)
    (home / "throughput_colocated.csv").write_text(pairs)
    return home


def test_speeds_are_those_of_one_card_and_of_both_of_a_pair(tmp_path: Path) -> None:
    speeds = read_speeds(folder_of(tmp_path))
    assert speeds.alone == {("LM 5", "v100"): 10.0, ("A3C", "v100"): 4.0}
    assert speeds.beside == {
        ("LM 5", "LM 5", "v100"): 6.5,
        ("LM 5", "A3C", "v100"): 8.0,
        ("A3C", "LM 5", "v100"): 2.0,
        ("A3C", "A3C", "v100"): 0.0,
    }


def test_the_mix_is_that_of_jobs_on_one_gpu(tmp_path: Path) -> None:
    header = "vc,model,batch_size,total_steps,submit_s,num_gpus\n"
    rows = "x,LM,5,100,0,1\nx,LM,10,100,1,4\nx,A3C,,100,2,1\n"
    (tmp_path / "msr_seed0_jobs.csv").write_text(header + rows)
    assert read_mix(tmp_path) == ("LM 5", "A3C")


@pytest.mark.parametrize(
    ("pairs", "told"),
    [
        ("v100,1,1,LM,5,LM,5,6,0\n", "line 2: one of the pair stands still"),
        ("v100,1,1,LM,5,LM,6,6,1\n", "line 2: LM 6 is not known alone on v100"),
        ("v100,1,1,LM,5,LM,5,6,nan\n", "line 2: steps_per_s2 is 'nan', not a number from 0"),
        ("v100,1,1,LM,5,,5,6,6\n", "line 2: no model"),
        ("v100,1,1,LM,5,LM\n", "line 2: "),
    ],
)
def test_a_wrong_row_is_named(tmp_path: Path, pairs: str, told: str) -> None:
    with pytest.raises(DataError) as caught:
        read_speeds(folder_of(tmp_path, pairs=COLOCATED + pairs))
    assert caught.value.code == "E3402"
    assert "1 of 1 rows cannot be read" in caught.value.what
    assert caught.value.why[0].startswith(told)


def test_all_wrong_rows_are_counted_and_the_first_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_speeds(folder_of(tmp_path, alone=ALONE + "v100,1,LM,5,0,10,50\n" * 8))
    assert "8 of 12 rows" in caught.value.what
    assert len(caught.value.why) == 6
    assert caught.value.why[-1] == "and 3 more"


def test_a_table_that_is_empty_or_lacks_a_column_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no rows"):
        read_speeds(folder_of(tmp_path, alone=ISOLATED))
    with pytest.raises(DataError) as caught:
        read_speeds(folder_of(tmp_path, alone="gpu,model\nv100,LM\n"))
    assert caught.value.why == ("line 2: no column 'num_gpus'",)
    (tmp_path / "throughput_isolated.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot be read"):
        read_speeds(tmp_path)


def test_a_table_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"throughput_isolated\.csv is not there"):
        read_speeds(tmp_path)
