import pytest

from upkeep import text

TOKEN = "123456789:AAHnotARealTokenButShapedLikeOne_-12345"


def test_a_token_is_masked_whoever_wrote_it() -> None:
    line = f"Retrying after connection broken: /bot{TOKEN}/sendMessage"
    assert TOKEN.partition(":")[2] not in text.redact(line)
    assert text.redact(f"https://x/bot{TOKEN.replace(':', '%3A')}/getMe").count("<token>") == 1


def test_a_remembered_secret_is_masked_in_every_form() -> None:
    odd = "my:unusual-secret"
    text.remember_secret(odd)
    for form in (odd, "unusual-secret", "my%3Aunusual-secret"):
        assert "unusual-secret" not in text.redact(f"GET /{form}/x")


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("plain näme 日本", "plain näme 日本"),
        ("a\nb\x1b[31m\x00", "a\\nb\\x1b[31m\\x00"),
        (b"caf\xe9.jsonl", "caf\\xe9.jsonl"),
        ("right\u202eleft\u2028", "right\\u202eleft\\u2028"),
    ],
)
def test_names_of_others_cannot_move_the_cursor_or_forge_a_line(
    raw: str | bytes, shown: str
) -> None:
    assert text.printable(raw) == shown


def test_a_long_name_is_cut_with_an_ellipsis() -> None:
    assert text.printable("x" * 100, limit=10) == "x" * 9 + "…"


def test_columns_line_up_with_wide_and_combining_characters() -> None:
    rows = [["取引ボット", "12"], ["cafe\u0301", "3"], ["x", "100"]]
    lines = text.table(["task", "MiB"], rows, right=" >")
    assert {text.display_width(line) for line in lines} == {15}
    assert lines[0] == "task        MiB"
    assert not any(line.endswith(" ") for line in text.table(["a", "b"], [["x", ""]]))
