#!/usr/bin/env python3
"""Makes the bundled text encoder: what it is taught, by whom, and with which settings.

    testdata/encoder/make.py --source DIR --teacher DIR --tools DIR --work DIR [--seed N]

--source  the folder that testdata/products/make.py takes: products.tsv (perhaps .zst) with the fields id, title,
          short_description, supplier, price_cents, attributes; queries.tsv; docs_minilm_f16.npy, a row a product
--teacher all-MiniLM-L6-v2 as a folder (model.safetensors, tokenizer.json, config.json)
--tools   where the binaries encode-texts and train-encoder lie
--work    a folder for what lies between; the encoder is its subfolder `encoder-N-2`

What is taught: the products (title and short description, with the vectors of testdata/products), and the phrases of one to
three words that occur most often in titles, descriptions, suppliers and attributes, with the vectors that the teacher gives
them. The 135 test queries are taken out of the phrases. Prints nDCG@10 of the result over the vectors of the products.
"""
import argparse
import collections
import pathlib
import re
import subprocess
import unicodedata

import numpy as np

PHRASES = 30_000
HERE = pathlib.Path(__file__).resolve().parent


def table(folder, name):
    """Rows of a TSV file, packed or not, without the header line."""
    path = folder / name
    if path.exists():
        text = path.read_text(encoding="utf-8")
    else:
        packed = subprocess.run(["zstd", "-dc", f"{path}.zst"], check=True, capture_output=True)
        text = packed.stdout.decode("utf-8")
    return [line.split("\t") for line in text.split("\n")[1:] if line]


def words(text):
    """Lower-case words of letters and digits."""
    return re.findall(r"[^\W_]+(?:[-.][^\W_]+)*", unicodedata.normalize("NFKC", text).lower())


def phrases(products, queries):
    """The most frequent runs of one to three words, but for the test queries."""
    counts = collections.Counter()
    for _, title, description, supplier, _, attributes in products:
        values = [pair.partition(":")[2] for pair in attributes.split(";")]
        seen = set()
        for text in [title, description, supplier, *values]:
            run = words(text)
            for size in (1, 2, 3):
                for at in range(len(run) - size + 1):
                    part = run[at:at + size]
                    # A phrase of figures alone is nothing that is asked for.
                    if any(re.search("[a-z]{2}", word) for word in part):
                        seen.add(" ".join(part))
        counts.update(seen)
    test = {" ".join(words(query)) for _, query in queries}
    kept = [(phrase, n) for phrase, n in counts.items() if n >= 3 and phrase not in test]
    kept.sort(key=lambda item: (-item[1], item[0]))
    return [phrase for phrase, _ in kept[:PHRASES]]


def ndcg(vectors, queries, qrels, judged_only=False):
    """nDCG@10 with linear gain over the queries that have a positive grade; unjudged products count 0, or are left out."""
    total, count = 0.0, 0
    for q, vector in enumerate(queries):
        grades = qrels.get(q, {})
        best = sorted(grades.values(), reverse=True)[:10]
        if not best or best[0] <= 0:
            continue
        scores = vectors @ vector
        if judged_only:
            rows = np.array(sorted(grades))
            order = rows[np.argsort(-scores[rows], kind="stable")[:10]]
        else:
            order = np.argsort(-scores, kind="stable")[:10]
        discount = 1 / np.log2(np.arange(2, 12))
        gains = np.array([grades.get(int(row), 0) for row in order])
        total += (gains * discount[:len(gains)]).sum() / (np.array(best) * discount[:len(best)]).sum()
        count += 1
    return total / count


def unit(x):
    x = x.astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def measure(encoder, tools, work):
    """nDCG@10 of an encoder's query vectors over the products of testdata, all and judged only."""
    products = HERE.parent / "products"
    texts = [line.split("\t")[1] for line in (products / "queries.tsv").read_text().split("\n")[1:] if line]
    (work / "queries.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
    output = work / "queries.npy"
    subprocess.run([tools / "encode-texts", "--encoder", encoder, "--texts", work / "queries.txt", "--output", output],
                   check=True)
    qrels = collections.defaultdict(dict)
    for line in (products / "qrels.tsv").read_text().split("\n"):
        if line:
            q, row, grade = map(int, line.split("\t"))
            qrels[q][row] = grade
    vectors, queries = unit(np.load(products / "vectors.npy")), unit(np.load(output))
    return ndcg(vectors, queries, qrels), ndcg(vectors, queries, qrels, judged_only=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("source", "teacher", "tools", "work"):
        parser.add_argument(f"--{name}", type=pathlib.Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--measure", type=pathlib.Path, help="only measure the encoder in this folder")
    arguments = parser.parse_args()
    work, tools = arguments.work, arguments.tools
    work.mkdir(parents=True, exist_ok=True)
    if arguments.measure:
        print("nDCG@10 {:.4f}, judged only {:.4f}".format(*measure(arguments.measure, tools, work)))
        return
    products = table(arguments.source, "products.tsv")
    short = phrases(products, table(arguments.source, "queries.tsv"))
    if not (work / "phrases.npy").exists():
        (work / "phrases.txt").write_text("\n".join(short) + "\n", encoding="utf-8")
        subprocess.run([tools / "encode-texts", "--encoder", arguments.teacher, "--texts", work / "phrases.txt",
                        "--output", work / "phrases.npy", "--half"], check=True)
    documents = [f"{title} {description}".strip() for _, title, description, *_ in products]
    (work / "texts.txt").write_text("\n".join(documents + short) + "\n", encoding="utf-8")
    vectors = [np.load(arguments.source / "docs_minilm_f16.npy"), np.load(work / "phrases.npy")]
    np.save(work / "vectors.npy", np.concatenate(vectors))
    # Three passes, each with a learning rate that falls to zero; the later ones go on where the one before ended.
    first = ["--vocabulary", "16000", "--width", "96", "--rate", "0.03", "--dropout", "0.1"]
    later = ["--rate", "0.06", "--dropout", "0.05"]
    output = None
    for number, settings in enumerate([first, later, later]):
        start = [] if output is None else ["--start", output]
        output = work / f"encoder-{arguments.seed}-{number}"
        subprocess.run([tools / "train-encoder", "--texts", work / "texts.txt", "--vectors", work / "vectors.npy",
                        "--table", "i8", "--epochs", "12", "--batch", "512", "--seed", str(arguments.seed), "--threads", "1",
                        "--output", output, *start, *settings], check=True)
    print("nDCG@10 {:.4f}, judged only {:.4f}".format(*measure(output, tools, work)))


if __name__ == "__main__":
    main()
