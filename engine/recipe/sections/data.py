"""The data section: where images and labels are, how they are cleaned and split."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from engine.recipe.sections.base import Names, PathText, Section


class FoldsSection(Section):
    """How the samples are split into training and validation."""

    count: int = Field(
        5,
        ge=1,
        le=100,
        description="Number of stratified folds. 1: nothing is held out, one model is trained on everything, and its last epoch is kept.",
    )
    run: tuple[int, ...] = Field(
        (),
        description="Which folds to train, from 0. Empty: all of them. With count = 5, [0] is a plain hold-out of a fifth.",
    )
    seed: int | None = Field(None, description="Seed of the split. Not given: the recipe's seed.")
    near_duplicates: Literal["together", "apart"] = Field(
        "together",
        description="together: images that nearly equal each other (data.near_bits) are never split across training and validation; apart: they are split like all others.",
    )

    @model_validator(mode="after")
    def _run_below_count(self) -> FoldsSection:
        for fold in self.run:
            if not 0 <= fold < self.count:
                raise ValueError(f"run: fold {fold} does not exist, folds are 0 to {self.count - 1}")
        if len(set(self.run)) != len(self.run):
            raise ValueError("run: a fold is named twice")
        return self


class DataSection(Section):
    """Where the images and labels are, and how they are cleaned. Relative paths start at the folder the command runs in.

    In this and every other path of a recipe `~` and `$NAME` stand for what they do in a shell; `$$` is a dollar sign.
    """

    train: PathText = Field(
        "",
        description="Training images: a folder with one sub-folder per class, or with train and val folders of such; or a .csv, .tsv or .parquet table.",
    )
    test: PathText = Field("", description="Images to predict: a folder, or a .csv, .tsv or .parquet table.")
    images: PathText = Field("", description="Folder that a table's paths start from. Empty: the table's own folder.")
    test_images: PathText = Field(
        "", description="Folder that the paths of a table of test images start from. Empty: the same as images."
    )
    path_column: str = Field(
        "",
        description="Table column with the image path. Empty: path, img_path, image, file or filename, whichever is there, else the id.",
    )
    label_column: str = Field(
        "", description="Table column with the label. Empty: label, class, target or category, whichever is there."
    )
    id_column: str = Field(
        "", description="Table column with the sample id. Empty: ID or id when there is one, else the path."
    )
    group_column: str = Field(
        "", description="Table column whose equal values never fall on both sides of a split. Empty: no groups."
    )
    fold_column: str = Field(
        "",
        description="Table column with the fold each sample is validated in, from 0; -1 or nothing: never. The words train and valid stand for -1 and 0, and rows that say test are left out. Empty: the split is drawn.",
    )
    exclude: Names = Field(
        (),
        description="Training images to leave out: ids, file names, or paths from the data folder. Their files need not be there.",
    )
    exclude_file: PathText = Field(
        "", description="A text file with more of them, one a line; lines that begin with # are passed over."
    )
    missing: Literal["error", "leave_out"] = Field(
        "error",
        description="Files that a training table lists and that are not there. error: they are counted and the run is refused; leave_out: they are named, and trained without.",
    )
    drop_classes: tuple[str, ...] = Field(
        (),
        description='Labels whose images are left out, such as ["Not sure", "Skip*"]: labels as found (after relabel) or class names, in which * stands for anything and capitals count. "" stands for images without a label.',
    )
    rare_classes: Literal["error", "drop", "train"] = Field(
        "error",
        description="Classes with fewer images than folds, or that would lie in one fold as a whole. error: all of them are named; drop: left out; train: trained on in every fold and validated in none, together with what shares a group with them. See also aliases, which joins classes.",
    )
    relabel: PathText = Field(
        "",
        description="A table (.csv) of training images whose label is wrong: the image (as in exclude) and its true label.",
    )
    label_table: PathText = Field(
        "",
        description="A table (.csv) whose first column holds labels as they are found and whose second one the class names they stand for, such as a meta.csv or what `engine data names` writes.",
    )
    label_names: tuple[tuple[str, str], ...] = Field(
        (),
        description="The same in the recipe: pairs [label as found, class name]. Trained models keep the label table here.",
    )
    aliases: tuple[Names, ...] = Field(
        (),
        description="Class names that mean the same, a list for each class: trained, predicted and scored as one class under the first name.",
    )
    alias_columns: Literal["split", "each", "first"] = Field(
        "split",
        description="A submission with a column for every alias. split: the class's probability is shared equally, so rows sum to 1 and a scorer that adds the columns sees all of it; each: every column holds all of it; first: the first column holds all of it and the others 0.",
    )
    class_groups: tuple[Names, ...] = Field(
        (),
        description="Classes that belong together: a list for each group, its name and then class names, in which * stands for anything. Counted by `engine data check`, scored as group_accuracy.",
    )
    check: Literal["decode", "header"] = Field(
        "decode",
        description="What is looked at before training. decode: every image is decoded once, at a low resolution (half the work of one epoch of decoding; what is found is kept in the cache), damaged ones are left out, near-duplicates are found; header: only file headers, and damaged images are left out when their batch comes.",
    )
    duplicates: Literal["collapse", "keep"] = Field(
        "collapse",
        description="Files with equal content and label. collapse: the first one stands for all; keep: all of them stay, in one fold.",
    )
    conflicts: Literal["drop", "keep"] = Field(
        "drop",
        description="Files with equal content and different labels. drop: all of them are left out; keep: all of them stay, in one fold.",
    )
    near_bits: int = Field(
        24,
        ge=0,
        le=31,
        description="Near-duplicates are images whose perceptual hashes differ in at most this many of 256 bits, also when mirrored or turned by quarters.",
    )
    copies: Literal["with", "only", "without"] = Field(
        "with",
        description="Augmented copies that `engine data augment` lists in a table. with: trained on beside the originals; only: trained on in their place; without: left out. They are never validated on, nor trained on when their original is held out.",
    )
    sample_submission: PathText = Field(
        "",
        description="A sample submission file (.csv); its columns and order shape submission.csv. Empty: id, label, probabilities.",
    )
    cache: PathText = Field(
        "",
        description="Folder for the manifest cache. Empty: beside the data, or the user's cache folder where that is read-only.",
    )
    folds: FoldsSection = Field(FoldsSection(), description="The split into folds.")
