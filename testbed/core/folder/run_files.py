"""The files of run folders: what each holds and which command writes it, for the reference and its test."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import NamedTuple

WEIGHTS = "model.safetensors"


class RunFile(NamedTuple):
    """A file of a run folder. name: path in the run folder; TARGET stands for model or attention, N for a number, other
    capitals for a name."""

    name: str
    written_by: str
    meaning: str

    @property
    def pattern(self) -> str:
        """A pattern for `fnmatch`: a star for each word of capitals."""
        stem = self.name
        for word in _PLACEHOLDERS:
            stem = stem.replace(word, "*")
        return stem


_PLACEHOLDERS = (
    *("TARGET", "PRECISION", "SOURCE", "LAYER", "MODULE", "NNNNN", "NNNN", "NNN", "TIME"),
    *("NAME", "NUMBER", "VARIANT", "FILE"),
)

ANY_FOLDER: tuple[RunFile, ...] = (
    RunFile(
        "manifest.json",
        "every command",
        "which stage wrote each file, from what (hashes of its inputs), with which versions and arguments; each record has a"
        " checksum",
    ),
    RunFile(".lock", "every command", "held while a command writes into the folder"),
    RunFile("bug-TIME.txt", "any command", "the traceback of an error that nobody foresaw, to put into a report"),
)
"""In every run folder."""

MODEL_FOLDER: tuple[RunFile, ...] = (
    RunFile(WEIGHTS, "train, import, prune", "weights, with the architecture in the file's metadata"),
    RunFile("training.checkpoint", "train", "the state of a training that is not finished; removed at its end"),
    RunFile("curves.csv", "train", "loss and accuracy of each epoch, kept up to date while it trains"),
    RunFile("curves.png", "train", "the same as a picture"),
    RunFile("tensorboard/events.out.tfevents.NAME", "train --log tensorboard", "the same for TensorBoard"),
    RunFile(
        "wandb/offline-run-TIME/run-NAME.wandb",
        "train --log wandb",
        "the same for Weights & Biases, to be sent with `wandb sync`",
    ),
    RunFile("wandb/offline-run-TIME/files/NAME", "train --log wandb", "versions of the installed packages, for that"),
    RunFile("wandb/offline-run-TIME/logs/NAME", "train --log wandb", "what the library of Weights & Biases logs"),
    RunFile("wandb/NAME", "train --log wandb", "links to the logs of the latest run"),
    RunFile("golden/logits.npy", "golden", "reference golden: logits (images, classes) of the original model, float32"),
    RunFile("golden/MODULE.input.npy", "golden", "what the first attention module is fed, image by image, float32"),
    RunFile("golden/MODULE.output.npy", "golden", "what it gives, float32"),
    RunFile("golden/images.json", "golden", "the recorded images' ids and labels, and how they were chosen"),
    RunFile("tiers.json", "tiers", "edges of the confidence tiers, and which images are in each"),
    RunFile("subset.json", "subset", "the chosen images, and the files that hold them"),
    RunFile("subset/logits.npy", "subset", "logits of the chosen images"),
    RunFile("subset/MODULE.input.npy", "subset", "what the first attention module is fed for the chosen images"),
    RunFile("subset/MODULE.output.npy", "subset", "what it gives"),
    RunFile("TARGET.onnx", "export", "the plain ONNX file in fp32, as it is deployed"),
    RunFile("TARGET.PRECISION.onnx", "export", "the same in fp16, bf16 or int8"),
    RunFile("protected/model.PRECISION.onnx", "protect", "the protected model in this precision, as it is deployed"),
    RunFile("fuzziness.csv", "fuzziness", "separation fuzziness of each layer"),
    RunFile("fuzziness.png", "fuzziness", "the same as a picture, with fits"),
    RunFile(
        "fuzziness/log.csv", "train --fuzziness-every", "separation fuzziness of each layer at each recorded epoch"
    ),
    RunFile("fuzziness/epoch-NNNN.png", "train --fuzziness-every", "the layers at one epoch"),
    RunFile("fuzziness/epochs.gif", "train --fuzziness-every", "all epochs, one after the other"),
    RunFile("fuzziness/epochs.png", "train --fuzziness-every", "all layers over the epochs"),
    RunFile("fuzziness/layer-LAYER.png", "train --fuzziness-every", "one layer over the epochs"),
    RunFile("fuzziness/accuracy.png", "train --fuzziness-every", "loss and accuracy over the epochs"),
)
"""In the folder of a model."""

CAMPAIGN_FOLDER: tuple[RunFile, ...] = (
    RunFile("sources.json", "campaign run", "full paths of the model and the data, for this machine; may be deleted"),
    RunFile(WEIGHTS, "campaign run", "the model's weights, where it is no ONNX file"),
    RunFile(
        "protected/model.PRECISION.onnx", "campaign run", "a protected model's files, as they were in its own folder"
    ),
    RunFile("golden/logits.npy", "campaign run", "reference golden: logits of all test images, float32"),
    RunFile("golden/attention.npy", "campaign run", "reference golden of the attention module for the named images"),
    RunFile("tiers.json", "campaign run", "edges of the confidence tiers, and the images named in each"),
    RunFile("inputs/TARGET.npy", "campaign run", "what the target is fed for the named images, float32"),
    RunFile("pictures.parquet", "campaign run", "the named images as PNG: image_id, png"),
    RunFile("TARGET.onnx", "campaign run", "the plain ONNX file, as it is deployed"),
    RunFile("TARGET.twin.onnx", "campaign run", "the same with fault ports"),
    RunFile("TARGET.sites.json", "campaign run", "the site table: name, kind, block, shape and format of each tensor"),
    RunFile("proxy.json", "campaign run", "what guesses the effect of faults, with stop.proxy; may be deleted"),
    RunFile("faults.parquet", "campaign run", "the plan: one row per fault ([columns](columns.md#faults))"),
    RunFile("faults.points.parquet", "campaign run", "all words of the faults that change more than one"),
    RunFile("faults.words.npy", "campaign run", "golden words of the planned elements, fault after fault, uint32"),
    RunFile("plan/round-NNN.parquet", "campaign run", "the plan of one round of an adaptive campaign"),
    RunFile("plan/round-NNN.points.parquet", "campaign run", "the words of its faults that change more than one"),
    RunFile("plan/round-NNN.words.npy", "campaign run", "golden words of its elements, uint32"),
    RunFile("store/segment-NNNNN.log", "campaign run", "finished rows while the campaign runs: framed, with checksums"),
    RunFile("store/plan", "campaign run", "which plan those rows are of"),
    RunFile("status.json", "campaign run", "progress, rate and outcomes so far, for `testbed campaign status`"),
    RunFile("results.parquet", "campaign run", "one row per fault and image ([columns](columns.md#results))"),
    RunFile("summary.json", "campaign run", "rates with intervals, gates, timing: what `campaign show --json` prints"),
    RunFile("report.html", "campaign run, report", "the page to look at; one file that needs nothing else"),
    RunFile("protect.json", "campaign run", "the spec's [protect] table, for `testbed campaign status`"),
    RunFile(
        "protected/model/FILE", "campaign run", "with a [protect] table: the protected model, a folder as any model's"
    ),
    RunFile("protected/campaign/FILE", "campaign run", "the campaign of that model, a folder as any campaign's"),
    RunFile("comparison/comparison.json", "campaign run", "what protection bought ([keys](protection.md))"),
    RunFile("comparison/NAME.csv", "campaign run", "its tables: groups, affected, checkers, new-sdc, second-runs"),
    RunFile("comparison/removed-NAME.svg", "campaign run", "rates before and after by kind of site, as a picture"),
    RunFile(
        "link.parquet", "sweep --link", "deviation of the attention module's output under faults in the whole model"
    ),
    RunFile("exact.parquet", "sweep", "smallest masking atol of rows that had to be evaluated exactly"),
    RunFile("noise/TARGET.SOURCE.parquet", "sweep", "deviation without a fault of another engine, precision or batch"),
    RunFile("lens.json", "fault lens", "depths, shares and areas of the faults looked at ([keys](lens.md))"),
    RunFile("lens_faults.csv", "fault lens", "each fault that was looked at: where it enters, is absorbed, takes over"),
    RunFile("lens_groups.csv", "fault lens", "shares and depths by kind, class of bit, block and outcome"),
    RunFile("lens.svg", "fault lens", "the same as a picture"),
    RunFile("sweep.json", "sweep", "the swept tolerances: flagged and missed faults, false alarms ([keys](sweep.md))"),
)
"""In the folder of a campaign."""

COMPARISON_FOLDER: tuple[RunFile, ...] = (
    RunFile("metrics.json", "tradeoff", "accuracy, latency and vulnerability of each model: all that the page shows"),
    RunFile("tradeoff.png", "tradeoff", "the same as a picture"),
    RunFile("tradeoff.html", "tradeoff", "the page to look at"),
    RunFile(
        "average.csv", "fuzziness DIR...", "separation fuzziness of each layer: mean and standard deviation over runs"
    ),
    RunFile("average.png", "fuzziness DIR...", "the same as a picture"),
    RunFile("average_epochs.csv", "fuzziness DIR...", "the same at each recorded epoch"),
    RunFile("average_epochs.png", "fuzziness DIR...", "the same as a picture"),
    RunFile("average_accuracy.png", "fuzziness DIR...", "loss and accuracy over the epochs, averaged"),
)
"""In the folder that --to names, of commands that put several models side by side."""

ATTENTION_FOLDER: tuple[RunFile, ...] = (
    RunFile("attention.html", "attention", "one page with every picture"),
    RunFile("attention.json", "attention", "distances of heads, top-1 and focus of each image, what a fault moved"),
    RunFile("distances.csv", "attention", "attention distance of every head, with the interval of its mean"),
    RunFile("attention_distance.svg", "attention --files", "distance of every head over the blocks"),
    RunFile("position_similarity.svg", "attention --files", "cosine similarity of the embeddings of positions"),
)
"""In the folder that --to of attention names; with --files also a folder of pictures for each image."""

CLASS_SPACE_FOLDER: tuple[RunFile, ...] = (
    RunFile("class_space.json", "classspace", "all tables but those of single memories, with settings and chance"),
    RunFile("identifiability.csv", "classspace", "class identifiability of every state, of trained and random weights"),
    RunFile("similarity_change.csv", "classspace", "share of tokens whose true-class logit attention or MLP raises"),
    RunFile(
        "residual_match.csv", "classspace", "whose top-1 the block's output has: its input's, attention's, the MLP's"
    ),
    RunFile(
        "class_value_agreement.csv", "classspace", "largest cosine of class and value per layer, tested against random"
    ),
    RunFile(
        "key_value_agreement.csv", "classspace", "share of tokens whose largest keys meet the true class's memories"
    ),
    RunFile("top_memories.csv", "classspace", "the memories closest to each class"),
    RunFile("memory_classes.csv", "classspace", "the class closest to each memory"),
    RunFile(
        "perturbation.csv", "classspace", "accuracy and identifiability when attention is cut or tokens are dropped"
    ),
    RunFile("explanation.csv", "classspace", "accuracy while tokens are dropped in the order of their relevance"),
    RunFile("explanation_area.csv", "classspace", "areas under those curves, and against a random order"),
    RunFile("probe.csv", "classspace", "test accuracy of a linear probe per state and token position"),
    RunFile("identifiability.png", "classspace", "identifiability over the blocks"),
    RunFile("branches.png", "classspace", "similarity change and residual match over the blocks"),
    RunFile("memories.png", "classspace", "both agreements over the blocks"),
    RunFile("perturbation.png", "classspace", "what each perturbation leaves"),
    RunFile("explanation.png", "classspace", "the perturbation curves"),
    RunFile("probe.png", "classspace", "probes over blocks and positions"),
)
"""In the folder that --to of classspace names."""

CIRCUITS_FOLDER: tuple[RunFile, ...] = (
    RunFile("circuits.json", "circuits", "settings, scores, curves with their areas, edges"),
    RunFile("components.csv", "circuits", "each component's score by each method"),
    RunFile("faithfulness.csv", "circuits", "faithfulness with its interval, of every order and size"),
    RunFile("areas.csv", "circuits", "CPR and CMD of every order with intervals, and their gain over a random order"),
    RunFile("edges.csv", "circuits", "with --edges: each edge's score by eap and eap-ig, the largest first"),
    RunFile("faithfulness.png", "circuits", "the curves"),
)
"""In the folder that --to of circuits names."""

STUDY_FOLDER: tuple[RunFile, ...] = (
    RunFile("study.json", "study", "mean test accuracies with intervals, every training's scores, paired differences"),
    RunFile("study.csv", "study", "a row for each training: accuracies, chosen epoch, seconds"),
    RunFile("study.png", "study", "the variants' accuracies with intervals"),
    RunFile("NAME.json", "study", "test accuracies in per cent by variant, under the published study's file name"),
    RunFile("curves.csv", "study", "loss and accuracy of each epoch of each training"),
    RunFile("curves.png", "study", "training and validation loss as a picture"),
    RunFile("runs/VARIANT/seed-NUMBER/FILE", "study", "the folder of a model, for each variant and seed"),
)
"""In the folder of a study."""

FOLDERS = {
    "Every run folder": ANY_FOLDER,
    "The folder of a model": MODEL_FOLDER,
    "The folder of a study": STUDY_FOLDER,
    "The folder of a campaign": CAMPAIGN_FOLDER,
    "The folder of a comparison (--to DIR)": COMPARISON_FOLDER,
    "The folder of attention (--to DIR)": ATTENTION_FOLDER,
    "The folder of a study in class space (--to DIR)": CLASS_SPACE_FOLDER,
    "The folder of circuits (--to DIR)": CIRCUITS_FOLDER,
}


def described(path: str, folder: tuple[RunFile, ...]) -> RunFile | None:
    """The entry for a file of a run folder; path: from there, with slashes."""
    parts = len(PurePosixPath(path).parts)
    fitting = [
        file
        for file in (*ANY_FOLDER, *folder)
        if fnmatchcase(path, file.pattern) and len(PurePosixPath(file.pattern).parts) == parts
    ]
    return max(fitting, key=lambda file: len(file.pattern.replace("*", "")), default=None)
