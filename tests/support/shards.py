"""Valid shards of random numbers in a moment, for tests of whatever reads shards.

    folder = make_shards(tmp_path / "data", samples=12, buckets=((64, 64), (96, 64)))

Written by hand from the contract and not with `prepare`, so that it checks the contract rather than repeats the code.
Sizes are those of `dhumandiff.tiny`. In every picture person 1 stands in one half and person 2 in the other, and the
caption is one of two orders of "a man" and "a woman". Masks are uint8 from 0 to 255, 255 being inside.
"""

import io
import json
import tarfile
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save, save_file

START, END = 49406, 49407
WORDS = {"a": 320, "and": 537, "bench": 8771, "man": 786, "on": 525, "woman": 2308}  # ids of CLIP's vocabulary

TINY = {
    "context_width": 192,
    "pooled_width": 128,
    "text_width": 64,
    "clip_width": 64,
    "clip_tokens": 50,
    "identity_width": 512,
}


def make_shards(
    folder,
    samples=8,
    *,
    per_shard=4,
    buckets=((64, 64),),
    references=2,
    paired=True,
    chunks=1,
    sizes=TINY,
    pictures=False,
    source="test",
    weight=1.0,
    seed=0,
):
    """Write `samples` samples in tars of `per_shard` and the files beside them; gives the folder back.

    buckets: (height, width) px, multiples of 8, taken in turn. references: rows a person; the second one is flipped and
    augmented, the last one is of another photo if `paired`. chunks: of 77 tokens. pictures: also a .jpg a sample.
    sizes["pooled_width"] 0 leaves the pooled embedding out, as bases without one have it.
    """
    sizes = {**TINY, **sizes}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    random = torch.Generator().manual_seed(seed)
    shards = []
    for number, first in enumerate(range(0, samples, per_shard)):
        name = f"{number:06d}.tar"
        count = min(per_shard, samples - first)
        with tarfile.open(folder / name, "w", format=tarfile.USTAR_FORMAT) as tar:
            for index in range(first, first + count):
                bucket = buckets[index % len(buckets)]
                for ending, content in _sample(
                    index, bucket, references, paired, chunks, sizes, pictures, source, random
                ):
                    entry = tarfile.TarInfo(f"{index:08d}.{ending}")
                    entry.size = len(content)
                    tar.addfile(entry, io.BytesIO(content))
        shards.append({"name": name, "samples": count})
    save_file(_common(sizes, random), folder / "common.safetensors")
    (folder / "dataset.json").write_text(
        json.dumps(
            {
                "format": "dhumandiff-shards",
                "format_version": "1",
                "base": {
                    "name": "tiny",
                    "context_width": sizes["context_width"],
                    "pooled_width": sizes["pooled_width"],
                    "text_width": sizes["text_width"],
                    "latent_channels": 4,
                    "scaling_factor": 0.13025,
                },
                "vision": {"name": "tiny", "clip_width": sizes["clip_width"], "tokens": sizes["clip_tokens"]},
                "recogniser": {"name": "tiny", "width": sizes["identity_width"]},
                "buckets": [list(bucket) for bucket in buckets],
                "sources": [{"name": source, "weight": weight, "samples": samples}],
                "shards": shards,
                "counts": {"samples": samples, "set_aside": 0},
            },
            indent=1,
        )
    )
    return folder


def _common(sizes, random):
    tensors = {
        "clip_hidden_zero": torch.randn(1, sizes["clip_tokens"], sizes["clip_width"], generator=random).half(),
        "empty_text": torch.randn(77, sizes["context_width"], generator=random).half(),
        "empty_ids_l": torch.tensor([START] + [END] * 76, dtype=torch.int32),
    }
    if sizes["pooled_width"]:
        tensors["empty_pooled"] = torch.randn(sizes["pooled_width"], generator=random)
    return tensors


def _sample(index, bucket, references, paired, chunks, sizes, pictures, source, random):
    height, width = bucket[0] // 8, bucket[1] // 8
    nouns = ("man", "woman") if index % 2 == 0 else ("woman", "man")
    caption = f"a {nouns[0]} and a {nouns[1]} on a bench"
    ids = [WORDS[word] for word in caption.split()]
    later = [[chunks - 1, 1], [chunks - 1, 2]] if chunks > 1 else []  # the two are named again in the last chunk
    rows = [[START, *ids, *[END] * (76 - len(ids))]]
    rows += [[START, *[WORDS[noun] for noun in nouns], *[END] * 74] for _ in range(chunks - 1)]
    tensors = {
        "latent_mean": torch.randn(4, height, width, generator=random).half(),
        "latent_std": torch.full((4, height, width), 0.01).half(),
        "ids_l": torch.tensor(rows, dtype=torch.int32),
        "text": torch.randn(77 * chunks, sizes["context_width"], generator=random).half(),
    }
    if sizes["pooled_width"]:
        tensors["pooled"] = torch.randn(sizes["pooled_width"], generator=random)
    persons = []
    for number, noun in enumerate(nouns):
        left = (number + index // 2) % 2 == 0
        columns = slice(0, width // 2) if left else slice(width // 2, width)
        mask, face = torch.zeros(2, height, width, dtype=torch.uint8)
        mask[:, columns] = 255
        face[height // 8 : height // 2, columns] = 255
        tensors |= {f"mask_{number + 1}": mask, f"face_{number + 1}": face}
        tensors |= _references(number + 1, references, sizes, random)
        x0, x1 = (0, bucket[1] // 2) if left else (bucket[1] // 2, bucket[1])
        start = caption.index(f"a {noun} ") + 2
        first = [[0, 2 if number == 0 else 5]]
        words = [{"start": start, "end": start + len(noun), "word": noun}]
        persons.append(
            {
                "words": words,
                "tokens_first": first,
                "tokens_all": first + later[number : number + 1],
                "gender": "male" if noun == "man" else "female",
                "age_group": "adult",
                "identity": f"{source}-{index}-{noun}",
                "face_box": [x0 + 4.0, bucket[0] / 8, x1 - 4.0, bucket[0] / 2],
                "person_box": [float(x0), 0.0, float(x1), float(bucket[0])],
                "landmarks": [[x0 + 8.0 + 2 * point, bucket[0] / 4 + point] for point in range(5)],
                "references": [_reference_of(row, references, paired) for row in range(references)],
            }
        )
    described = {
        "caption": caption,
        "source": source,
        "bucket": list(bucket),
        "original_size": list(bucket),
        "crop": [0, 0],
        "target_size": list(bucket),
        "persons": persons,
    }
    yield "json", json.dumps(described).encode()
    yield "safetensors", save({key: value.contiguous().clone() for key, value in tensors.items()})
    if pictures:
        stream = io.BytesIO()
        Image.new("RGB", (bucket[1], bucket[0]), (40 * index % 256, 90, 160)).save(stream, "JPEG")
        yield "jpg", stream.getvalue()


def _references(person, rows, sizes, random):
    def unit():
        return torch.nn.functional.normalize(torch.randn(rows, sizes["identity_width"], generator=random), dim=-1)

    hidden = torch.randn(rows, sizes["clip_tokens"], sizes["clip_width"], generator=random)
    return {
        f"ref_{person}.clip_hidden": hidden.half(),
        f"ref_{person}.identity": unit(),
        f"ref_{person}.identity_swapped": unit(),
    }


def _reference_of(row, rows, paired):
    origin = "paired" if paired and row == rows - 1 and rows > 1 else "target"
    quality = {"face_size": 120.0, "sharpness": 0.1, "yaw": 0.0, "brightness": 0.5, "clipped": 0.0}
    return {"origin": origin, "augmented": row == 1 and rows > 2, "quality": {**quality, "light_imbalance": 0.0}}
