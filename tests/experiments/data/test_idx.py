"""MNIST's files: what is right is read whole, and anything else is refused with a message."""

import gzip
import struct
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gradreg_core.errors import DataFileError
from gradreg_experiments.data.digits import draw, load_dataset
from gradreg_experiments.data.idx import MAX_BYTES, load_mnist, read_idx

IMAGES = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)


def encode(array, *, magic=b"\0\0", dtype=0x08, shape=None):
    shape = array.shape if shape is None else shape
    return magic + bytes([dtype, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + array.tobytes()


def write(path, data, *, zipped=False):
    path.write_bytes(gzip.compress(data, mtime=0) if zipped else data)
    return path


def write_mnist(folder, *, train=30, test=6, side=8, separator="-", ending="", labels=None):
    generator = np.random.default_rng(0)
    for name, count in (("train", train), ("t10k", test)):
        images = generator.integers(0, 256, (count, side, side), np.uint8)
        classes = (labels or {}).get(name, generator.integers(0, 10, count, np.uint8))
        for kind, array in (("images", images), ("labels", classes)):
            path = folder / f"{name}-{kind}{separator}idx{array.ndim}-ubyte{ending}"
            write(path, encode(array), zipped=bool(ending))
    return folder


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("array", [IMAGES, IMAGES[0, 0], IMAGES[:0]], ids=["images", "labels", "empty"])
def test_a_sound_file_is_read_whole(tmp_path, array, zipped):
    # The name says nothing about the compression.
    path = write(tmp_path / ("plain" if zipped else "named.gz"), encode(array), zipped=zipped)
    read = read_idx(path, array.ndim)
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, array)


def test_a_gzip_stream_of_two_members_is_one_file(tmp_path):
    data = encode(IMAGES)
    path = write(tmp_path / "file", gzip.compress(data[:20], mtime=0) + gzip.compress(data[20:], mtime=0))
    np.testing.assert_array_equal(read_idx(path, 3), IMAGES)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "expected a header of 16 bytes, the file ends after 0"),
        (encode(IMAGES)[:3], "expected a header of 16 bytes, the file ends after 3"),
        (encode(IMAGES)[:15], "expected a header of 16 bytes, the file ends after 15"),
        (encode(IMAGES)[:-1], "expected 60 values after the header, the file has 59"),
        (encode(IMAGES)[:16], "expected 60 values after the header, the file has 0"),
        (encode(IMAGES) + b"\0", "expected 60 values after the header, but more bytes follow"),
        (encode(IMAGES, magic=b"\x89P"), "starts with bytes 00 00, got 89 50"),
        (encode(IMAGES, dtype=0x0D), r"expected type 0x08 \(unsigned bytes\), got 0x0d"),
        (encode(IMAGES[0, 0]), "expected 3 axes, as images have, got 1"),
        (encode(IMAGES, shape=(2**32 - 1,) * 3), f"more than the limit of {MAX_BYTES}"),
        (encode(IMAGES, shape=(MAX_BYTES, 1, 1)), f"expected {MAX_BYTES} values after the header, the file has 60"),
        (encode(IMAGES, shape=(0, 4, 5)), "expected 0 values after the header, but more bytes follow"),
    ],
)
def test_a_malformed_file_is_refused(tmp_path, data, message, zipped):
    path = write(tmp_path / "images", data, zipped=zipped)
    with pytest.raises(DataFileError, match=message) as caught:
        read_idx(path, 3)
    assert str(path) in str(caught.value)
    assert "--data-dir" in str(caught.value)


def test_labels_are_not_taken_for_images_nor_images_for_labels(tmp_path):
    with pytest.raises(DataFileError, match="expected 1 axes, as labels have, got 3"):
        read_idx(write(tmp_path / "labels", encode(IMAGES)), 1)


def corrupt(position, value):
    data = bytearray(gzip.compress(encode(IMAGES), mtime=0))
    data[position] ^= value
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (gzip.compress(encode(IMAGES), mtime=0)[:-9], "expected a whole gzip stream, but it ends too early"),
        (gzip.compress(encode(IMAGES), mtime=0)[:5], "expected a whole gzip stream, but it ends too early"),
        (corrupt(-5, 1), "expected a valid gzip stream, got a corrupt one"),  # the checksum
        (corrupt(-1, 1), "expected a valid gzip stream, got a corrupt one"),  # the length
        (corrupt(10, 0xFF), "expected a valid gzip stream, got a corrupt one"),  # the first block
        (gzip.compress(encode(IMAGES), mtime=0) + b"more", "expected a valid gzip stream, got a corrupt one"),
    ],
)
def test_a_corrupt_gzip_stream_is_refused(tmp_path, data, message):
    with pytest.raises(DataFileError, match=message):
        read_idx(write(tmp_path / "images.gz", data), 3)


def test_a_gzip_bomb_is_not_unpacked(tmp_path):
    bomb = gzip.compress(encode(IMAGES) + bytes(2**22), mtime=0)
    # Unpacking it all would find that its end is missing.
    path = write(tmp_path / "bomb", bomb[:-9])
    with pytest.raises(DataFileError, match="more bytes follow"):
        read_idx(path, 3)


def test_memory_is_taken_for_what_is_there_and_not_for_what_is_announced(tmp_path):
    path = write(tmp_path / "images", encode(IMAGES, shape=(MAX_BYTES, 1, 1)))
    tracemalloc.start()
    try:
        with pytest.raises(DataFileError, match="the file has 60"):
            read_idx(path, 3)
        assert tracemalloc.get_traced_memory()[1] < 2**23
    finally:
        tracemalloc.stop()


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(DataFileError, match="but there is no file of this name"):
        read_idx(tmp_path / "none", 3)
    with pytest.raises(DataFileError, match="cannot be read: Is a directory"):
        read_idx(tmp_path, 3)


HEADERS = st.builds(
    lambda magic, dtype, rank, lengths: (
        magic + bytes([dtype, rank]) + b"".join(length.to_bytes(4) for length in lengths)
    ),
    st.sampled_from([b"\0\0", b"\0\1", b"\x1f\x8b"]),
    st.sampled_from([8, 9, 0]),
    st.integers(0, 4),
    st.lists(st.one_of(st.integers(0, 5), st.integers(0, 2**32 - 1)), max_size=4),
)
ARRAYS = arrays(np.uint8, st.lists(st.integers(0, 5), min_size=1, max_size=3).map(tuple))
PLAIN = st.one_of(
    st.binary(max_size=60), st.builds(bytes.__add__, HEADERS, st.binary(max_size=130)), ARRAYS.map(encode)
)


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        PLAIN,
        PLAIN.map(lambda data: gzip.compress(data, mtime=0)),
        st.builds(corrupt, st.integers(-50, 49), st.integers(1, 255)),
    ),
    st.sampled_from([1, 3]),
)
def test_any_bytes_give_the_array_or_a_data_file_error(data, rank):
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / "file", data)
        try:
            array = read_idx(path, rank)
        except DataFileError:
            return
    plain = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    assert plain == encode(array)
    assert array.ndim == rank


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("separator", ["-", "."])
def test_mnist_is_found_under_its_usual_names(tmp_path, separator, ending):
    mnist = load_mnist(write_mnist(tmp_path, separator=separator, ending=ending))
    assert [array.shape for array in mnist] == [(30, 8, 8), (30,), (6, 8, 8), (6,)]
    data = load_dataset(tmp_path)
    assert [len(part.y) for part in (data.pool, data.validation, data.test)] == [25, 5, 6]
    np.testing.assert_array_equal(np.concatenate([data.pool.x, data.validation.x])[..., 0], mnist.train_images)
    np.testing.assert_array_equal(data.test.y, mnist.test_labels)
    assert draw(data.pool, 25, seed=0).x.shape == (25, 8, 8, 1)


def test_a_missing_file_of_the_four_is_named(tmp_path):
    write_mnist(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    names = "t10k-labels-idx1-ubyte, t10k-labels-idx1-ubyte.gz, t10k-labels.idx1-ubyte or t10k-labels.idx1-ubyte.gz"
    with pytest.raises(DataFileError, match=f"expected a file named {names}; it has none of them"):
        load_mnist(tmp_path)
    with pytest.raises(DataFileError, match="there is no such folder"):
        load_mnist(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"train": np.zeros(29, np.uint8)}, "train-labels-idx1-ubyte: expected 30 labels, as many as .* got 29"),
        ({"t10k": np.zeros(7, np.uint8)}, "t10k-labels-idx1-ubyte: expected 6 labels, as many as .* got 7"),
        ({"t10k": np.array([0, 9, 10, 1, 2, 3], np.uint8)}, "expected labels in 0..9, got 10 at index 2"),
    ],
)
def test_files_that_do_not_fit_together_are_refused(tmp_path, labels, message):
    with pytest.raises(DataFileError, match=message):
        load_mnist(write_mnist(tmp_path, labels=labels))


def test_train_and_test_images_have_one_size(tmp_path):
    write_mnist(tmp_path)
    write(tmp_path / "t10k-images-idx3-ubyte", encode(np.zeros((6, 8, 9), np.uint8)))
    with pytest.raises(DataFileError, match=r"expected images of \(8, 8\) pixels, .* got \(8, 9\)"):
        load_mnist(tmp_path)


@pytest.mark.parametrize("options", [{"side": 7}, {"train": 5}, {"test": 0}])
def test_too_few_or_too_small_images_are_refused(tmp_path, options):
    with pytest.raises(DataFileError, match="expected images of at least 8x8 pixels, 6 to train and 1 to test with"):
        load_dataset(write_mnist(tmp_path, **options))
