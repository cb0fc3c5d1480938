"""`kvquilt calibrate` measures a gate, as a user calls it, on a tiny model with a real tokenizer."""

import json

import msgspec

from kvquilt.demo.corpus import passages
from kvquilt_codec.gate import file as gate_file
from kvquilt_codec.profile import file as profile_file
from tests.e2e.commands import answer, kvquilt
from tests.router.families import tiny


def test_calibrate_measures_a_gate_beside_the_profile_and_measures_it_anew(smollm2, tmp_path):
    folder, texts, path = tmp_path / "model", tmp_path / "texts", tmp_path / "out" / "tiny.safetensors"
    tiny("LlamaConfig", {"vocab_size": 49152}).save_pretrained(folder)
    smollm2.tokenizer.save_pretrained(folder)
    texts.mkdir()
    whole = [str(document.content) for document in passages().values()]
    for number in range(6):
        (texts / f"{number}.txt").write_text("".join(whole[number : number + 4]))
    arguments = ("calibrate", folder, "--texts", texts, "--gate-cases", "4", "--output", path)
    (report,) = answer(*arguments, "--quality-layers", "1", "--gate-policy", "deviation:0.2")
    gate = gate_file.load(gate_file.beside(path).read_bytes())
    gate_file.check(gate, profile_file.load(path.read_bytes()).model_fingerprint, report["digest"])
    assert report["gate"] == msgspec.json.decode(msgspec.json.encode(gate.points))
    keys = {point.key for point in gate.points}
    assert {key[2] for key in keys} == {"exact", "pair", "warm", "base"}
    assert ("deviation", 0.2, "pair", "high") in keys
    (again,) = answer(*arguments, "--gate-only")
    assert again["digest"] == report["digest"]
    assert {point.key for point in gate_file.load(gate_file.beside(path).read_bytes()).points} == {
        key for key in keys if key[0] != "deviation"
    }
    for wrong, words in (("deviation", "NAME:RATIO"), ("deviation:2", "0..1"), ("anchors:0.1", "learns")):
        refused = kvquilt(*arguments, "--gate-only", "--gate-policy", wrong, "--json", code=2)
        assert words in json.loads(refused.stderr.splitlines()[-1])["error"]["message"]
