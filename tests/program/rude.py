"""A program that does what each text says, most of it wrong; run by a bare interpreter of another environment."""

import json
import os
import random
import struct
import subprocess
import sys
import time
import wave

RATE = 16_000
MARK = os.environ.get("RUDE_MARK", "")


def say(**line):
    print(json.dumps(line), flush=True)


def write(order, rate=RATE, seconds=1):
    draw = random.Random(order["seed"])
    with wave.open(order["output"], "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        file.writeframes(b"".join(struct.pack("<h", draw.randrange(-9_000, 9_000)) for _ in range(rate * seconds)))


def cut(order):
    write(order)
    os.truncate(order["output"], 9_000)


def blow_up(order):
    write(order)
    os.truncate(order["output"], 200_000_000)


def scribble(order):
    with open(order["output"], "wb") as file:
        file.write(b"RIFF of nothing at all")


def die_once(order):
    if not os.path.exists(MARK):
        open(MARK, "w").close()
        os.kill(os.getpid(), 9)
    write(order)


def leave_a_child(order):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    with open(MARK, "w") as file:
        file.write(f"{os.getpid()} {child.pid}")
    beat_forever(order)


def work_slowly(order):
    for number in range(30):
        time.sleep(0.1)
        say(progress=number / 30)
    write(order)


def number_all(order):
    write(order)
    for beat in ({"progress": 0.5}, {"beat": True}):
        say(id=order["id"], **beat)
    say(id=order["id"], ok=True, progress=1.0)


def beat_forever(order):
    while True:
        time.sleep(0.05)
        say(beat=True)


def gallop(order):
    for _ in range(20_000):
        say(beat=True)
    write(order)
    open(MARK, "w").close()


def flood(order):
    for number in range(100_000):
        sys.stderr.write(f"line {number} {'x' * 50}\n")
    sys.stderr.write("y" * 5_000_000)
    for _ in range(20_000):
        say(beat=True)
    write(order)


def say_all(order):
    write(order)
    with open(MARK, "a") as file:
        file.write(json.dumps({"order": order, "folder": os.getcwd(), "environment": dict(os.environ)}) + "\n")


def refuse(order):
    raise ValueError("it is\x1brude\n to say so")


DEEDS = {
    "speak": write,
    "tell": say_all,
    "die": lambda order: os.kill(os.getpid(), 9),
    "leave": lambda order: sys.exit("no more of this"),
    "stumble": die_once,
    "hang": lambda order: time.sleep(1000),
    "multiply": leave_a_child,
    "work": work_slowly,
    "number": number_all,
    "drone": beat_forever,
    "gallop": gallop,
    "flood": flood,
    "babble": lambda order: print("Loading checkpoint shards:  50%", flush=True),
    "rant": lambda order: print("z" * 1_000_000, flush=True),
    "swap": lambda order: say(id=order["id"] + 7, ok=True),
    "boast": lambda order: None,
    "cut": cut,
    "blow": blow_up,
    "scribble": scribble,
    "hurry": lambda order: write(order, rate=8_000),
    "refuse": refuse,
}


def main():
    time.sleep(float(os.environ.get("RUDE_START", "0")))
    if "RUDE_WORDS" in os.environ:
        sys.exit(os.environ["RUDE_WORDS"])
    say(beat=True)
    say(ready=True, sample_rate=int(os.environ.get("RUDE_RATE", RATE)), name="rude", version=sys.executable)
    for line in sys.stdin:
        order = json.loads(line)
        try:
            DEEDS[order["text"].split()[0].strip(".").lower()](order)
            say(id=order["id"], ok=True)
        except ValueError as error:
            say(id=order["id"], error=str(error), is_input_wrong=True)


main()
