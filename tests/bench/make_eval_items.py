#!/usr/bin/env python3
"""Makes long-context items with known answers for `sliminfer-eval`, one JSON object a line.

Tasks: passkey (a number to remember), niah (several "magic numbers", one asked for), kv (codes of
things, one asked for), mixed (a magic number, then a code). niah, kv and mixed items also have a
second question about the same text with its answers, for conversations of two turns. The text around them is prose made here from a seeded grammar, or paragraphs
of any plain text given with --text. The same arguments give the same items, byte for byte.

    tests/bench/make_eval_items.py --per_cell 36 --seed 20 --output items.jsonl   # 324 items
"""

import argparse
import json
import random
import re
import sys

NAMES = """Abigail Ambrose Beatrice Caleb Clara Cornelius Dorothea Edmund Eleanor Felix Georgina
Harriet Horace Imogen Jasper Josephine Lavinia Leopold Lydia Magnus Matilda Nathaniel Octavia Percy
Phoebe Quentin Rosalind Rupert Silas Theodora Ursula Victor Winifred""".split()
ROLES = """the baker|the old captain|the schoolmaster|the miller's daughter|the notary|the ferryman|
the gardener|the doctor's widow|the stable boy|the organist|the tailor|the postmistress|
the travelling painter|the young curate|the innkeeper|the clockmaker|the judge|the seamstress|
the lighthouse keeper|the retired sailor""".replace("\n", "").split("|")
PLACES = """the market square|the river bank|the long gallery|the harbour|the parish church|
the orchard behind the mill|the reading room|the upper meadow|the station|the glass house|
the kitchen of the inn|the edge of the wood|the bridge of stone|the library|the winter garden|
the road to the coast|the schoolyard|the attic|the chapel on the hill|the quiet end of the lane
""".replace("\n", "").split("|")
THINGS = """a letter without a seal|a basket of late pears|an umbrella of green silk|a map with torn
 corners|a bundle of old newspapers|a lantern|a box of watch springs|a jar of honey|a violin case|
a ring of rusty keys|a loaf still warm|a notebook bound in cloth|a cage with two finches|
a portrait of nobody in particular|a chess board|a coat that had seen better winters
""".replace("\n", "").split("|")
TIMES = """before breakfast|towards evening|on the first dry day of the month|after the bells|
when the lamps were lit|in the middle of the afternoon|while the rain lasted|on the eve of the fair|
long after midnight|as soon as the coach had gone|during the sermon|at the turn of the tide
""".replace("\n", "").split("|")
MOODS = """with great seriousness|not without amusement|in a low voice|rather too quickly|
as if nothing had happened|with a bow|to the surprise of everyone present|against all advice|
with the patience of a saint|half asleep|in excellent humour|for the third time
""".replace("\n", "").split("|")
VERBS = """carried|forgot|discovered|described|offered|refused|returned|exchanged|admired|mislaid|
borrowed|inspected|wrapped|examined|praised""".replace("\n", "").split("|")
OPINIONS = """that the weather would hold|that nobody reads sermons any more|that the mill had been
 sold twice|that music is best heard from the next room|that a good cook is worth two lawyers|
that the river had moved since spring|that cats understand more than they admit|that travel is
 tiring and home is dull|that the new road would ruin the view|that letters ought to be short|
that every family keeps one secret too many|that patience and soup improve with time
""".replace("\n", "").split("|")
WEATHER = """The wind had turned to the west|A thin fog lay over the fields|It had begun to snow|
The sun came out at last|The rain drummed on the slates|A warm dusk settled over the roofs|
Not a leaf was moving|The frost had drawn flowers on the panes""".replace("\n", "").split("|")
CITIES = """Lisbon Oslo Vienna Dublin Prague Seville Naples Geneva Helsinki Krakow Athens Bergen
Lyon Tallinn Riga Porto Zagreb Malta Havana Lima Quito Kyoto Hanoi Delhi Tunis Accra Dakar Perth
Auckland Boston Denver Toronto""".split()
OBJECTS = """anchor barrel candle compass feather fiddle goblet hammer harp kettle ladder lantern
mirror needle oar pillow quilt ribbon saddle sickle spoon thimble trumpet umbrella vase wheel whistle
window bucket crown drum easel""".split()

# (introduction, needle, question) per task; two wordings each.
PASSKEY = [
    ("There is important information hidden inside a lot of irrelevant text. Find it and memorize "
     "it.",
     "The pass key is {value}. Remember it. {value} is the pass key.",
     "What is the pass key? Answer with the number."),
    ("Somewhere in the following story a secret number is mentioned. Remember it.",
     "The secret number is {value}. Keep it in mind: the secret number is {value}.",
     "What is the secret number? Answer with the number."),
]
NIAH = [
    ("Some special magic numbers are hidden within the following text. Memorize them.",
     "One of the special magic numbers for {key} is: {value}.",
     "What is the special magic number for {key} mentioned in the text?"),
    ("The text below mentions lucky numbers of several cities. Memorize them.",
     "The lucky number for {key} is {value}.",
     "What is the lucky number for {key} mentioned in the text?"),
]
KV = [
    ("Remember the codes in the following text.",
     "The code for {key} is {value}.",
     "What is the code for {key}?"),
    ("Remember the locker numbers in the following text.",
     "The locker number of the {key} is {value}.",
     "What is the locker number of the {key}?"),
]

# Measured on this text with the default model's tokenizer; only decides how long items get.
CHARS_PER_TOKEN = 4.35
TEMPLATE_TOKENS = 60


def capital(text):
    return text[0].upper() + text[1:]


def sentence(rng):
    """One sentence of the grammar."""
    who = rng.choice([rng.choice(NAMES), rng.choice(ROLES), rng.choice(ROLES)])
    other = rng.choice([rng.choice(NAMES), rng.choice(ROLES)])
    forms = [
        lambda: f"{capital(rng.choice(TIMES))}, {who} {rng.choice(VERBS)} {rng.choice(THINGS)} "
                f"near {rng.choice(PLACES)}.",
        lambda: f"{capital(who)} {rng.choice(VERBS)} {rng.choice(THINGS)} {rng.choice(MOODS)}, and "
                f"{other} pretended not to notice.",
        lambda: f"“I have always believed {rng.choice(OPINIONS)},” said {who} {rng.choice(MOODS)}.",
        lambda: f"{rng.choice(WEATHER)}, and from {rng.choice(PLACES)} one could hear {other} "
                f"talking to {who}.",
        lambda: f"It was generally held {rng.choice(OPINIONS)}, though {who} had seen {other} with "
                f"{rng.choice(THINGS)} {rng.choice(TIMES)}.",
        lambda: f"Nobody asked why {who} went to {rng.choice(PLACES)} {rng.choice(TIMES)}, least of "
                f"all {other}, who thought {rng.choice(OPINIONS)}.",
        lambda: f"“And {rng.choice(THINGS)}?” asked {other}; but {who} only looked towards "
                f"{rng.choice(PLACES)} {rng.choice(MOODS)}.",
        lambda: f"In later years {who} would remember {rng.choice(PLACES)}, {rng.choice(THINGS)}, "
                f"and how {other} had {rng.choice(VERBS)} it {rng.choice(MOODS)}.",
    ]
    return rng.choice(forms)()


def grammar_paragraphs(rng):
    while True:
        yield " ".join(sentence(rng) for _ in range(rng.randint(3, 7)))


def text_paragraphs(rng, pool):
    """Runs of neighbouring paragraphs, so that the text reads on."""
    while True:
        start = rng.randrange(len(pool))
        yield from pool[start:start + rng.randint(8, 40)]


def read_pool(paths):
    """Paragraphs without long numbers, which could be mistaken for needles."""
    pool = []
    for path in paths:
        with open(path, encoding="utf-8") as file:
            for paragraph in re.split(r"\n\s*\n", file.read()):
                paragraph = " ".join(paragraph.split())
                if 40 <= len(paragraph) <= 2000 and not re.search(r"\d{4,}", paragraph):
                    pool.append(paragraph)
    return pool


def needles_of(task, rng):
    """Introduction, needle sentences, and (question, answer) of the first ones in their order."""
    if task == "passkey":
        intro, needle, question = rng.choice(PASSKEY)
        value = str(rng.randint(10000, 99999))
        return intro, [needle.format(value=value)], [(question, value)]
    if task == "mixed":
        # The second question asks for something of another kind than the first.
        _, numbers, number_questions = needles_of("niah", rng)
        _, codes, code_questions = needles_of("kv", rng)
        return ("Some numbers are hidden within the following text. Memorize them.",
                numbers[:2] + codes[:2], [number_questions[0], code_questions[0]])
    wordings, keys, count = (NIAH, CITIES, 4) if task == "niah" else (KV, OBJECTS, 8)
    intro, needle, question = rng.choice(wordings)
    keys = rng.sample(keys, count)
    values = [str(v) for v in rng.sample(range(1000, 10000), count)]
    sentences = [needle.format(key=k, value=v) for k, v in zip(keys, values)]
    return intro, sentences, [(question.format(key=keys[i]), values[i]) for i in range(2)]


def make_item(task, tokens, depth, name, rng, pool):
    intro, needles, questions = needles_of(task, rng)
    question, answer = questions[0]
    frame = len(intro) + len(question) + sum(len(n) + 2 for n in needles)
    room = int((tokens - TEMPLATE_TOKENS) * CHARS_PER_TOKEN) - frame
    source = text_paragraphs(rng, pool) if pool else grammar_paragraphs(rng)
    paragraphs = []
    while room > 0:
        paragraphs.append(next(source))
        room -= len(paragraphs[-1]) + 2
    # The asked-for needle lies at `depth`, the others anywhere.
    places = [round(depth * len(paragraphs))]
    places += [rng.randint(0, len(paragraphs)) for _ in needles[1:]]
    for place, needle in sorted(zip(places, needles), reverse=True):
        paragraphs.insert(place, needle)
    prompt = "\n\n".join([intro] + paragraphs + [question])
    item = {"id": name, "prompt": prompt, "answers": [answer], "task": task,
            "length_tokens": tokens}
    if len(questions) > 1:
        item["second_question"], item["second_answers"] = questions[1][0], [questions[1][1]]
    return item


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--per_cell", type=int, default=36,
                        help="items per task and length (36: 324 items in all)")
    parser.add_argument("--tasks", default="passkey,niah,kv")
    parser.add_argument("--lengths", default="1950,3900,7700", help="prompt tokens, about")
    parser.add_argument("--text", action="append", default=[],
                        help="plain text whose paragraphs are used instead of the grammar's")
    parser.add_argument("--output", default="-")
    arguments = parser.parse_args()

    pool = read_pool(arguments.text)
    if arguments.text and len(pool) < 50:
        parser.error(f"--text has {len(pool)} usable paragraphs, at least 50 are needed")
    lines = []
    for task in arguments.tasks.split(","):
        if task not in ("passkey", "niah", "kv", "mixed"):
            parser.error(f"--tasks: '{task}', allowed are passkey, niah, kv, mixed")
        for length in (int(text) for text in arguments.lengths.split(",")):
            for index in range(arguments.per_cell):
                rng = random.Random(f"{arguments.seed}/{task}/{length}/{index}")
                # Depths are spread evenly, with some noise, over (0, 1).
                depth = (index + rng.random()) / arguments.per_cell
                name = f"{task}-{length}-s{arguments.seed}-{index:03d}"
                item = make_item(task, length, depth, name, rng, pool)
                lines.append(json.dumps(item, ensure_ascii=False))
    out = sys.stdout if arguments.output == "-" else open(arguments.output, "w", encoding="utf-8")
    out.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
