"""The measurement of expensive schemes at a size that takes seconds: what is printed is what quantization.json says."""

from benchmarks import quantize_1b

SMALL = "--hidden 32 --intermediate 64 --layers 1 --heads 2 --kv-heads 1 --vocab 1100 --samples 2 --length 16 --device cpu".split()


def test_a_line_per_scheme_and_failures_named(tmp_path, capsys):
    arguments = [*SMALL, "--schemes", "awq", "--folder", str(tmp_path)]
    assert quantize_1b.main([*arguments, "--group", "32"]) == 0
    said = capsys.readouterr().out.splitlines()
    cells = [cell.strip() for cell in said[-1].strip("|").split("|")]
    assert cells[:2] == ["awq", "cpu"] and float(cells[2]) > 0 and 4 < float(cells[4]) < 5
    assert not list(tmp_path.iterdir()), "nothing is left behind"
    assert quantize_1b.main([*arguments, "--group", "24"]) == 1
    assert "| awq | failed: error: group: 24 does not divide" in capsys.readouterr().out
