"""Addresses, sizes and checksums of the known sets' files, as their makers publish them."""

from __future__ import annotations

from .download import RemoteFile


def _idx_splits(
    folder: str, mirrors: tuple[str, ...], files: dict[str, tuple[int, str]]
) -> dict[str, tuple[RemoteFile, ...]]:
    """Train and test of a set in MNIST's four files, given as name: (bytes, SHA-256)."""

    def file(name: str) -> RemoteFile:
        size, sha256 = files[name]
        urls = tuple(f"{mirror}{name}.gz" for mirror in mirrors)
        return RemoteFile(f"{folder}/{name}.gz", size, f"sha256:{sha256}", urls)

    return {
        split: (file(f"{prefix}-images-idx3-ubyte"), file(f"{prefix}-labels-idx1-ubyte"))
        for split, prefix in (("train", "train"), ("test", "t10k"))
    }


MNIST = _idx_splits(
    "mnist",
    (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    {
        "train-images-idx3-ubyte": (
            9_912_422, "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        ),
        "train-labels-idx1-ubyte": (
            28_881, "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        ),
        "t10k-images-idx3-ubyte": (
            1_648_877, "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        ),
        "t10k-labels-idx1-ubyte": (
            4_542, "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
    },
)  # fmt: skip

FASHION_MNIST = _idx_splits(
    "fashion-mnist",
    (
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
    ),
    {
        "train-images-idx3-ubyte": (
            26_421_880, "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        ),
        "train-labels-idx1-ubyte": (
            29_515, "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        ),
        "t10k-images-idx3-ubyte": (
            4_422_102, "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        ),
        "t10k-labels-idx1-ubyte": (
            5_148, "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        ),
    },
)  # fmt: skip

EMOJI = RemoteFile(
    "emoji/emoji.npz", 3_829_362,
    "sha256:ca91b584e84ecd9c1b0e32cb2851aa1d7a5ea5d78b72d488477bba04b55b8063",
)  # fmt: skip

CIFAR10 = RemoteFile(
    "cifar10/cifar-10-binary.tar.gz", 170_052_171,
    "sha256:c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
)  # fmt: skip

SVHN = {
    split: (
        RemoteFile(
            f"svhn/{split}_32x32.mat", size, checksum,
            (f"http://ufldl.stanford.edu/housenumbers/{split}_32x32.mat",),
        ),
    )
    for split, size, checksum in (
        ("train", 182_040_794,
         "sha256:435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8"),
        ("test", 64_275_384,
         "sha256:cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b"),
        ("extra", 1_329_278_602, "md5:a93ce644f1a588dc4d68dda5feec44a7"),
    )
}  # fmt: skip

OMNIGLOT = {
    split: (
        RemoteFile(
            f"omniglot/images_{name}.zip", size, f"sha256:{sha256}",
            ("https://raw.githubusercontent.com/brendenlake/omniglot/master/python/"
             f"images_{name}.zip",),
        ),
    )
    for split, name, size, sha256 in (
        ("train", "background", 9_464_212,
         "ad41ab679c8b5d90b271ef46be6987cc81211774a695c29dcc5367b2b26ee640"),
        ("test", "evaluation", 6_462_886,
         "1f61a8f3366785b057fc117d9228e78a16e3d976c8953b2a10fcc74cf0609cee"),
    )
}  # fmt: skip

TINY_IMAGENET = RemoteFile(
    "tiny-imagenet/tiny-imagenet-200.zip", 248_100_043,
    "md5:90528d7ca1a48142e341f4ef8d21d0de",
    ("http://cs231n.stanford.edu/tiny-imagenet-200.zip",),
)  # fmt: skip

CELEBA = RemoteFile(
    "celeba/img_align_celeba.zip", 1_443_490_838,
    "sha256:46fb89443c578308acf364d7d379fe1b9efb793042c0af734b6112e4fd3a8c74",
    # "confirm" answers Google's question about a file too large for its virus scan.
    ("https://drive.usercontent.google.com/download?id=0B7EVK8r0v71pZjFTYXZWM3FlRnM"
     "&resourcekey=0-dYn9z10tMJOBAkviAcfdyQ&export=download&confirm=t",),
)  # fmt: skip
