"""Prints what CPython makes of random format specs, conversions and templates: one JSON object a line.

Seeded, so that every run prints the same cases. A float is written as the decimal number of its 64 bits, because JSON
has no NaN, infinity or exact integers; an integer as its decimal digits. Widths and precisions stay within the limits
of the Rust code, which refuses greater ones with an error of its own.
"""

import json
import random
import struct
import sys

SEED = 20240229
SPEC_CASES = 30_000
CONVERSION_CASES = 3_000
TEMPLATE_CASES = 6_000

INTS = [0, 1, -1, 7, 9, 10, 42, 65, 99, 100, 255, 256, 999, 1000, 1234, -1234, 65535, 99999, 123456, -1234567, 0xE9,
        0x1F389, 0x10FFFF, 0x110000, 1 << 31, 1 << 32, 1 << 53, (1 << 53) + 1, -(1 << 53) - 3, (1 << 63) - 1, -(1 << 63),
        9007199254740993, 9223372036854775295]
FLOATS = [0.0, -0.0, 0.1, 0.5, -0.5, 1.5, 2.5, 0.125, 2.675, 1.0, -1.0, 9.5, 9.9999995, 99999.95, 999999.5, 1e-5, 1e-4,
          0.00012345, 123456.789, 1234567.0, 1e15, 1e16, 9999999999999998.0, 1e17, 1e22, 1e23, 5e-324, 2.2250738585072014e-308,
          1.7976931348623157e308, -1.7976931348623157e308, 1e307, float("inf"), float("-inf"), float("nan"), -float("nan"),
          -0.001, -1e-9, 0.21499999, 3.0, 100.0, 0.005, 0.015, 4503599627370496.5]
STRINGS = ["", "a", "adam", "it's", '"', "'\"", "é", "e\u0301", "→x", "🎉", "a b", "\\", "\t\n\r", "\x00\x1b\x7f", "\xa0\xad\u200b",
           "\u2028\ue000", "日本語", "x" * 40, "../up", "{}"]
KEYS = ["epoch", "batch", "loss", "val_loss", "my metric", "a/b", "top-5", "-1", "1a", "a]", "é", " a ", "missing"]
FILLS = "".join(["0", " ", "*", "x", "<", "=", "^", "é", "→", "🎉", "+", "z", "#", ",", "_", ".", "d"])
CODES = "bcdoxXneEfFgG%s"


def random_float(rng):
    kind = rng.randrange(6)
    if kind == 0:
        return rng.choice(FLOATS)
    if kind == 1:
        return struct.unpack("<d", rng.getrandbits(64).to_bytes(8, "little"))[0]
    if kind == 2:
        return rng.uniform(-2, 2)
    if kind == 3:
        return round(rng.uniform(-1000, 1000), rng.randrange(6))
    if kind == 4:  # Exact ties: few bits after the point.
        return rng.randrange(-(1 << 20), 1 << 20) / (1 << rng.randrange(24))
    return rng.choice([-1, 1]) * 2.0 ** rng.randrange(-1074, 1024)


def random_int(rng):
    kind = rng.randrange(4)
    if kind == 0:
        return rng.choice(INTS)
    if kind == 1:
        return rng.randrange(-(1 << 63), 1 << 63)
    if kind == 2:
        return rng.randrange(1, 300)
    return rng.choice([-1, 1]) * rng.getrandbits(rng.randrange(1, 63))


def random_string(rng):
    if rng.random() < 0.6:
        return rng.choice(STRINGS)
    return "".join(rng.choice("abc '\"\\/.é→🎉\u0301\xa0\n") for _ in range(rng.randrange(30)))


def random_value(rng):
    return rng.choice([random_float, random_float, random_int, random_string])(rng)


def random_number_text(rng, small):
    kind = rng.randrange(20)
    if kind == 0:
        return str(rng.randrange(256))
    if kind == 1:
        return rng.choice(["00", "007", "0", "99999999999999999999999", "9223372036854775808"])
    return str(rng.randrange(small))


def random_spec(rng):
    """A spec with every part in its place, each there or not."""
    spec = ""
    if rng.random() < 0.4:
        if rng.random() < 0.6:
            spec += rng.choice(FILLS)
        spec += rng.choice("<>=^")
    if rng.random() < 0.25:
        spec += rng.choice("+- ")
    if rng.random() < 0.12:
        spec += "z"
    if rng.random() < 0.2:
        spec += "#"
    if rng.random() < 0.3:
        spec += "0"
    if rng.random() < 0.6:
        spec += random_number_text(rng, 30)
    if rng.random() < 0.3:
        spec += rng.choice([",", ",", "_", "_", ",_", "_,", ",,", "__"] if rng.random() < 0.2 else [",", "_"])
    if rng.random() < 0.4:
        spec += "." + (random_number_text(rng, 25) if rng.random() < 0.97 else "")
    if rng.random() < 0.8:
        spec += rng.choice(CODES)
    return spec


def broken_spec(rng):
    """A spec with a character too many, too few or out of place."""
    spec = list(random_spec(rng))
    for _ in range(rng.randrange(1, 3)):
        at = rng.randrange(len(spec) + 1)
        if spec and rng.random() < 0.4:
            spec.pop(min(at, len(spec) - 1))
        else:
            spec.insert(at, rng.choice("<>=^+- z#0,_.bcdeqZ!é\x01\x7f€sfg%"))
    return "".join(spec)


def encode(value):
    if isinstance(value, float):
        return {"kind": "float", "value": str(struct.unpack("<Q", struct.pack("<d", value))[0])}
    if isinstance(value, int):
        return {"kind": "int", "value": str(value)}
    return {"kind": "str", "value": value}


def outcome(make):
    """What `make` returns or raises; None when the output holds half a surrogate pair, which JSON and Rust refuse."""
    try:
        text = make()
    except Exception as error:
        return {"error": type(error).__name__, "text": str(error)}
    if any(0xD800 <= ord(c) <= 0xDFFF for c in text):
        return None
    return {"text": text}


def beyond_limits(spec):
    """Whether a width or precision fits 64 bits but not the Rust code's limit."""
    digits = "".join(c if c in "0123456789" else " " for c in spec).split()
    return any(255 < int(number) < 1 << 63 for number in digits)


def spec_case(rng):
    value = random_value(rng)
    spec = random_spec(rng) if rng.random() < 0.8 else broken_spec(rng)
    if beyond_limits(spec):
        return None
    return {"case": "spec", "spec": spec, "given": encode(value)}, lambda: format(value, spec)


def conversion_case(rng):
    value = random_value(rng) if rng.random() < 0.5 else random_string(rng)
    letter = rng.choice("sra")
    return (
        {"case": "conversion", "letter": letter, "given": encode(value)},
        lambda: {"s": str, "r": repr, "a": ascii}[letter](value),
    )


def nested_spec(rng):
    """A spec with fields inside: widths, precisions and fills that the event brings."""
    return rng.choice([":{w}", ":>{w}", ":.{p}f", ":{w}.{p}f", ":{fill}>{w}", ":0{w}d", ":{fill!s}^{w:d}", ":{{}}", ":{absent}"])


def random_template(rng):
    parts = []
    for _ in range(rng.randrange(1, 5)):
        kind = rng.randrange(4)
        if kind == 0:
            parts.append(rng.choice(["weights", "/", ".", "-", "é", "{{", "}}", "a b", ".ckpt"]))
        else:
            conversion = rng.choice(["", "", "", "!s", "!r", "!a"])
            spec = rng.choice(["", ":", ":02d", ":.2f", ":.4g", ":>6", ":" + random_spec(rng), nested_spec(rng)])
            parts.append("{" + rng.choice(KEYS) + conversion + spec + "}")
    if rng.random() < 0.15:
        text = list("".join(parts))
        at = rng.randrange(len(text) + 1)
        if text and rng.random() < 0.5:
            text.pop(min(at, len(text) - 1))
        else:
            text.insert(at, rng.choice("{}:![]."))
        return "".join(text)
    return "".join(parts)


def template_case(rng):
    template = random_template(rng)
    if beyond_limits(template):
        return None
    metrics = {key: random_value(rng) for key in KEYS if key not in ("epoch", "missing") and rng.random() < 0.8}
    if rng.random() < 0.02:
        metrics["epoch"] = 1
    metrics.update(w=rng.randrange(0, 40), p=rng.randrange(0, 12), fill=rng.choice("x*0 é"))
    epoch = rng.randrange(1, 300)
    fixed = {"epoch": epoch}
    batch = rng.randrange(1, 5000) if rng.random() < 0.5 else None
    if batch is not None and "batch" not in metrics:
        fixed["batch"] = batch
    given = {key: encode(value) for key, value in metrics.items()}
    case = {"case": "template", "template": template, "epoch": epoch, "batch": batch, "metrics": given}
    return case, lambda: template.format(**fixed, **metrics)


def main():
    rng = random.Random(SEED)
    for make, wanted in [(spec_case, SPEC_CASES), (conversion_case, CONVERSION_CASES), (template_case, TEMPLATE_CASES)]:
        printed = 0
        while printed < wanted:
            made = make(rng)
            result = made and outcome(made[1])
            if not result:
                continue
            sys.stdout.write(json.dumps({**made[0], "expected": result}) + "\n")
            printed += 1


if __name__ == "__main__":
    main()
