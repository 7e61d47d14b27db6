"""What users name becomes scenes: files, folders, lists, addresses, stacks, areas, other units."""

from __future__ import annotations

import http.server
import json
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.rpc import RPC
from rasterio.transform import from_origin
from rasterio.warp import transform

from eosfm_cli.commands.app import main
from eosfm_cli.errors import BandError, DataError, RasterError, UsageError
from eosfm_cli.manifest import ModelManifest
from eosfm_cli.progress import Silent
from eosfm_cli.raster.area import Area, OutsideAreaError, parse_bbox, read_area
from eosfm_cli.raster.grid import Grid
from eosfm_cli.raster.inputs import find_scenes
from eosfm_cli.raster.opening import open_raster
from eosfm_cli.raster.pair import open_pair
from eosfm_cli.raster.ranges import check_units
from eosfm_cli.raster.scale import Scale, parse_scale
from eosfm_cli.raster.scene import open_scene
from eosfm_cli.raster.stack import band_of_file, stack_stem
from eosfm_cli.raster.windows import WindowPlan
from eosfm_cli.tiling import Tile

UTM = CRS.from_epsg(32631)
WEST, NORTH = 500_000, 5_000_000


class Told(Silent):
    """Keeps what it is told."""

    def __init__(self):
        self.said, self.warned = [], []

    def say(self, text):
        self.said.append(text)

    def warn(self, text):
        self.warned.append(text)


def manifest(*bands, mean=0.0, std=1.0, tile=64):
    return ModelManifest.model_validate(
        {
            "recipe": "r",
            "title": "t",
            "task": "segmentation",
            "bands": bands,
            "statistics": {band: {"mean": mean, "std": std} for band in bands},
            "classes": [{"name": "a"}, {"name": "b"}],
            "ignore_index": 255,
            "tile_size": tile,
            "encoder": {"fusion": "concat", "normalize": "batch"},
            "specialists": [],
            "decoder": {"name": "d"},
        }
    )


def write(path, values, *, size=10, west=WEST, north=NORTH, descriptions=(), mask=None, **profile):
    """A raster of square pixels, `(h, w)` or `(bands, h, w)`."""
    values = np.atleast_3d(np.asarray(values, np.float32)).reshape(-1, *np.shape(values)[-2:])
    profile = {"crs": UTM, "transform": from_origin(west, north, size, size), **profile}
    dtype, driver = profile.pop("dtype", "float32"), profile.pop("driver", "GTiff")
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        warnings.catch_warnings(action="ignore"),
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(
            path, "w", driver=driver, count=len(values), height=values.shape[1],
            width=values.shape[2], dtype=dtype, **profile,
        ) as dataset,
    ):  # fmt: skip
        dataset.write(values.astype(dtype))
        for i, text in enumerate(descriptions, 1):
            dataset.set_band_description(i, text)
        if mask is not None:
            dataset.write_mask(mask)
    return path


def ramp(height=4, width=5):
    return np.arange(height * width, dtype=np.float32).reshape(height, width)


def whole(scene):
    return scene.read(Tile(0, 0, scene.grid.height, scene.grid.width))


def names(scenes):
    return [Path(scene.name).name for scene in scenes]


# --------------------------------------------------------------------------- what is named


def test_what_is_named_is_a_scene_whatever_it_is(tmp_path):
    write(tmp_path / "a.tif", ramp())
    (tmp_path / "b.docx").write_text("no raster")
    asked = [tmp_path / "a.tif", tmp_path / "b.docx", tmp_path / "none.tif"]
    found = find_scenes(asked)
    assert names(found) == ["a.tif", "b.docx", "none.tif"]
    assert found[0].stem == "a"
    assert found[0].folder == tmp_path
    for broken in found[1:]:
        with pytest.raises(RasterError), open_scene(broken, manifest("red")):
            pass


def test_a_folder_gives_its_rasters_and_not_what_lies_beside_them(tmp_path):
    told = Told()
    for name in ("a10.tif", "a2.tif", "a2_pred.tif", "a2_conf.tif", "below/c.tif", ".hidden.tif"):
        write(tmp_path / name, ramp())
    for name in ("a2.png", "a2.tif.aux.xml", "notes.docx", "a2.tfw"):
        (tmp_path / name).write_text("x")
    found = find_scenes([str(tmp_path)], progress=told)
    assert names(found) == ["a2.tif", "a10.tif"]
    (line,) = told.said
    assert "a2_pred.tif" in line
    assert "aux.xml" not in line


def test_files_without_suffix_are_scenes_where_their_header_lies_beside_them(tmp_path):
    with rasterio.open(
        tmp_path / "scene", "w", driver="ENVI", width=5, height=4, count=1, dtype="float32"
    ) as dataset:
        dataset.write(ramp(), 1)
    (tmp_path / "scene.hdr").rename(tmp_path / "scene.hdr2")
    (tmp_path / "scene.hdr2").rename(tmp_path / "scene.hdr")
    found = find_scenes([tmp_path])
    assert "scene" in names(found)


def test_patterns_are_ours_where_the_shell_left_them_alone(tmp_path):
    told = Told()
    for name in ("x/a.tif", "x/a_pred.tif", "y/b.tif", "y/c.jp3"):
        write(tmp_path / name, ramp())
    found = find_scenes([f"{tmp_path}/*/*.tif", f"{tmp_path}/z*"], progress=told)
    assert names(found) == ["a.tif", "b.tif"]
    assert any("a_pred.tif" in line for line in told.said)
    assert any("z*" in line for line in told.warned)


def test_maps_that_the_shell_adds_are_left_out_beside_their_scene_alone(tmp_path):
    for name in ("a.tif", "a_pred.tif", "other_pred.tif"):
        write(tmp_path / name, ramp())
    found = find_scenes(sorted(tmp_path.glob("*.tif")))
    assert names(found) == ["a.tif", "other_pred.tif"]


def test_lists_are_read_from_where_they_are(tmp_path):
    write(tmp_path / "deep/a.tif", ramp())
    write(tmp_path / "b.tif", ramp())
    listed = tmp_path / "deep/list.txt"
    listed.write_text(f"# mine\n\na.tif\n  {tmp_path}/b.tif   # the second\n./a.tif\n", "utf-8-sig")
    for text in (str(listed), f"@{listed}"):
        told = Told()
        assert names(find_scenes([text], progress=told)) == ["a.tif", "b.tif"]
        assert any("more than once" in line for line in told.said)


@pytest.mark.parametrize("line", ["https://host/a.tif", "s3://bucket/a.tif", "/vsicurl/http://h/a"])
def test_lists_do_not_lead_to_the_network(tmp_path, line):
    (tmp_path / "list.txt").write_text(f"{line}?key=secret\n")
    with pytest.raises(DataError, match="line 1, points to the network") as caught:
        find_scenes([tmp_path / "list.txt"])
    assert "secret" not in str(caught.value)


def test_lists_that_are_none_are_refused(tmp_path):
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="is no text"):
        find_scenes([tmp_path / "list.txt"])
    with pytest.raises(DataError, match="cannot be read"):
        find_scenes([f"@{tmp_path}/none"])


def test_names_that_cannot_be_are_told(tmp_path):
    for text in ("a" * 5000, "~nobody-of-this-name/a.tif"):
        (scene,) = find_scenes([text])
        with (
            pytest.raises(RasterError, match="There is no file"),
            open_scene(scene, manifest("red")),
        ):
            pass
    (tmp_path / "list.txt").write_text("a\0b\n")
    with pytest.raises(DataError, match="is no text"):
        find_scenes([tmp_path / "list.txt"])


def test_nothing_at_all_is_refused(tmp_path):
    with pytest.raises(DataError, match="There is no scene in"):
        find_scenes([str(tmp_path), f"{tmp_path}/*.tif"])


@pytest.mark.parametrize(
    ("text", "file", "stem"),
    [
        ("https://host/x/a%20b.tif?sig=1", "/vsicurl/https://host/x/a%20b.tif?sig=1", "a b"),
        ("s3://bucket/key/a.tif", "/vsis3/bucket/key/a.tif", "a"),
        ("/vsis3/bucket/a.tif", "/vsis3/bucket/a.tif", "a"),
        ("HTTP://host/a.tif", "/vsicurl/http://host/a.tif", "a"),
    ],
)
def test_addresses_become_what_gdal_calls_them(text, file, stem):
    (scene,) = find_scenes([text])
    assert scene.files == (file,)
    assert scene.stem == stem
    assert scene.folder is None
    assert scene.name.partition("://")[0] in ("https", "http", "s3")
    assert "sig" not in scene.name
    assert scene.local_files == ()


# --------------------------------------------------------------------------- the network


class _Ranges(http.server.SimpleHTTPRequestHandler):
    """Serves parts of files, as servers of rasters do."""

    def do_GET(self):
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        content = path.read_bytes()
        first, _, last = self.headers.get("Range", "bytes=0-").partition("=")[2].partition("-")
        part = content[int(first) : int(last or len(content)) + 1]
        self.send_response(206)
        self.send_header(
            "Content-Range", f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}"
        )
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)

    def log_message(self, *_):
        self.server.asked.append(self.path)


@pytest.fixture
def server(tmp_path):
    """A web server over `tmp_path/web`, and what it was asked for."""
    (tmp_path / "web").mkdir()
    handler = partial(_Ranges, directory=str(tmp_path / "web"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        running.asked = []
        running.address = f"http://127.0.0.1:{running.server_port}"
        thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def test_rasters_that_are_named_by_their_address_are_read_by_parts(tmp_path, server):
    write(tmp_path / "web/a.tif", ramp())
    (scene,) = find_scenes([f"{server.address}/a.tif?sig=x"])
    with open_scene(scene, manifest("red")) as opened:
        np.testing.assert_array_equal(whole(opened).values[0], ramp())
    assert {path.partition("?")[0] for path in server.asked} == {"/a.tif"}


def test_what_is_not_on_the_server_is_told(server):
    (scene,) = find_scenes([f"{server.address}/none.tif?sig=secret"])
    with pytest.raises(RasterError, match="404") as caught, open_scene(scene, manifest("red")):
        pass
    assert "secret" not in str(caught.value)


def vrt(path, source, *, element="SourceFilename", extra=""):
    path.write_text(
        '<VRTDataset rasterXSize="5" rasterYSize="4"><VRTRasterBand dataType="Float32" band="1">'
        f'<SimpleSource><{element} relativeToVRT="0">{source}</{element}>'
        f"<SourceBand>1</SourceBand></SimpleSource></VRTRasterBand>{extra}</VRTDataset>"
    )
    return path


@pytest.mark.parametrize("start", ["/vsicurl/{}", "{}", "/vsicurl&#47;{}", "/vsicurl_streaming/{}"])
def test_vrts_do_not_lead_to_the_network(tmp_path, server, start):
    write(tmp_path / "web/a.tif", ramp())
    outer = vrt(tmp_path / "a.vrt", start.format(f"{server.address}/a.tif?sig=secret"))
    nested = vrt(tmp_path / "b.vrt", outer)
    for path in (outer, nested):
        with pytest.raises(RasterError, match="no file on this disk") as caught:
            find_and_read(path)
        assert "secret" not in str(caught.value)
    assert server.asked == []


def find_and_read(path):
    (scene,) = find_scenes([path])
    with open_scene(scene, manifest("red")) as opened:
        return whole(opened)


def test_descriptions_of_services_behind_a_vrt_are_not_followed(tmp_path, server):
    service = f'<GDAL_WMS><Service name="TMS"><ServerUrl>{server.address}</ServerUrl></Service>'
    (tmp_path / "a.tif").write_text(f"{service}</GDAL_WMS>")
    with pytest.raises(RasterError, match="text and no raster"):
        find_and_read(vrt(tmp_path / "a.vrt", tmp_path / "a.tif"))
    inline = f"{service}</GDAL_WMS>".replace("<", "&lt;")
    with pytest.raises(RasterError, match="no file on this disk"):
        find_and_read(vrt(tmp_path / "b.vrt", inline))
    assert server.asked == []


def test_a_disguised_vrt_is_not_followed(tmp_path, server):
    """What GDAL would take for a VRT, though it begins with blanks and has a header beside it."""
    hidden = tmp_path / "raw.bin"
    vrt(hidden, f"{server.address}/a.tif")
    hidden.write_bytes(b" " * 700 + hidden.read_bytes())
    (tmp_path / "raw.hdr").write_text(
        "ENVI\nsamples = 5\nlines = 4\nbands = 1\ndata type = 4\ninterleave = bsq\nbyte order = 0\n"
    )
    with pytest.raises(RasterError):
        find_and_read(vrt(tmp_path / "a.vrt", hidden))
    assert server.asked == []


def test_vrts_over_files_are_read(tmp_path):
    source = write(tmp_path / "a.tif", ramp())
    told = "<Metadata><MDI key='home'>https://example.org</MDI></Metadata>"
    outer = vrt(tmp_path / "b.vrt", vrt(tmp_path / "a.vrt", source), extra=told)
    np.testing.assert_array_equal(find_and_read(outer).values[0], ramp())


def test_vrts_in_circles_and_damaged_ones_end(tmp_path):
    circle = vrt(tmp_path / "a.vrt", tmp_path / "a.vrt")
    with pytest.raises(RasterError):
        find_and_read(circle)
    (tmp_path / "b.vrt").write_text("<VRTDataset><SourceFilename></VRTDataset>")
    with pytest.raises(RasterError, match="cannot be read as a VRT"):
        find_and_read(tmp_path / "b.vrt")
    (tmp_path / "c.vrt").write_text('<!DOCTYPE x [<!ENTITY a "b">]><VRTDataset>&a;</VRTDataset>')
    with pytest.raises(RasterError, match="document type"):
        find_and_read(tmp_path / "c.vrt")


# --------------------------------------------------------------------------- stacks


def bands_in(folder, **values):
    return [write(folder / f"{name}.tif", value) for name, value in values.items()]


def test_single_bands_are_one_scene_by_their_files_names(tmp_path):
    files = bands_in(tmp_path / "site", B02=ramp(), B04=ramp() + 100, B08=ramp() + 200)
    (scene,) = find_scenes(files, stack=True)
    assert scene.stem == "site"
    with open_scene(scene, manifest("nir", "blue")) as opened:
        np.testing.assert_array_equal(whole(opened).values, [ramp() + 200, ramp()])
        assert opened.matching == "bands: B08.tif as nir; B02.tif as blue"
    with pytest.raises(BandError, match="lacks green"), open_scene(scene, manifest("green")):
        pass


def test_bands_of_a_stack_can_be_named(tmp_path):
    files = [write(tmp_path / "x.tif", ramp()), write(tmp_path / "y.tif", [ramp() + 1, ramp() + 2])]
    (scene,) = find_scenes(files, stack=True)
    with open_scene(scene, manifest("red", "blue"), ("blue", "green", "red")) as opened:
        np.testing.assert_array_equal(whole(opened).values, [ramp() + 2, ramp()])
        assert opened.matching == "bands: y.tif 2 as red; x.tif as blue"


def test_a_folder_as_sentinel_2_products_are_is_one_scene(tmp_path):
    told = Told()
    data = tmp_path / "S2A_T31.SAFE/GRANULE/L2A/IMG_DATA"
    fine = np.kron(np.arange(4).reshape(2, 2), np.ones((2, 2)))
    write(data / "R10m/T31_2024_B02_10m.tif", fine)
    write(data / "R20m/T31_2024_B02_20m.tif", [[7, 7], [7, 7]], size=20)
    write(data / "R20m/T31_2024_B11_20m.tif", [[1, 3], [5, 7]], size=20)
    write(data / "R20m/T31_2024_SCL_20m.tif", [[1, 3], [5, 7]], size=20)
    write(tmp_path / "S2A_T31.SAFE/GRANULE/L2A/QI_DATA/MSK_DETFOO_B02.tif", fine)
    (scene,) = find_scenes([tmp_path / "S2A_T31.SAFE"], stack=True, progress=told)
    assert scene.stem == "S2A_T31"
    assert scene.folder == tmp_path
    with open_scene(scene, manifest("swir16", "blue")) as opened:
        assert (opened.grid.height, opened.grid.width) == (4, 4)
        pixels = whole(opened)
        assert opened.matching.splitlines() == [
            "bands: T31_2024_B11_20m.tif as swir16; T31_2024_B02_10m.tif as blue",
            "resampled to the grid of T31_2024_B02_10m.tif, bilinear: T31_2024_B11_20m.tif (20 m)",
        ]
    np.testing.assert_array_equal(pixels.values[1], fine)
    np.testing.assert_allclose(
        pixels.values[0],
        [[1, 1.5, 2.5, 3], [2, 2.5, 3.5, 4], [4, 4.5, 5.5, 6], [5, 5.5, 6.5, 7]],
    )
    assert any("SCL" in line for line in told.said)


def test_bands_in_jpeg_2000_are_a_scene(tmp_path):
    data = tmp_path / "S2A_T31.SAFE/GRANULE/L1C/IMG_DATA"
    exact = {"driver": "JP2OpenJPEG", "dtype": "uint16", "QUALITY": "100", "REVERSIBLE": "YES"}
    write(data / "T31_2024_B02.jp2", ramp(6, 6), **exact)
    write(data / "T31_2024_B05.jp2", ramp(3, 3), size=20, **exact)
    write(data / "T31_2024_B09.jp2", [[7]], size=60, **exact)
    write(data / "T31_2024_TCI.jp2", np.zeros((3, 6, 6)), **{**exact, "dtype": "uint8"})
    (scene,) = find_scenes([tmp_path / "S2A_T31.SAFE"], stack=True)
    with open_scene(scene, manifest("nir09", "rededge071", "blue", tile=32)) as opened:
        pixels = whole(opened)
    assert pixels.valid.all()
    assert (pixels.values[0] == 7).all()
    np.testing.assert_allclose(pixels.values[1][[0, 1, -1], [0, 1, -1]], [0, 1, 8])
    np.testing.assert_array_equal(pixels.values[2], ramp(6, 6))


@pytest.mark.parametrize("folder_first", [True, False])
def test_a_folder_and_a_file_are_one_scene(tmp_path, folder_first):
    """On the grid of what was named first, though the other has smaller pixels."""
    folder = tmp_path / "x" / "S2A_T31.SAFE"
    write(folder / "T31_B02_10m.tif", ramp(4, 4))
    write(folder / "T31_B11_20m.tif", ramp(2, 2), size=20)
    radar = write(tmp_path / "radar.tif", ramp(8, 8), size=5, descriptions=("vv",))
    named = (folder, radar) if folder_first else (radar, folder)
    (scene,) = find_scenes(named, stack=True)
    assert (scene.stem, scene.folder) == ("S2A_T31", tmp_path / "x")
    assert {Path(file).name for file in scene.files} >= {"radar.tif", "T31_B02_10m.tif"}
    with open_scene(scene, manifest("swir16", "vv", "blue")) as opened:
        assert opened.grid.height == (4 if folder_first else 8)
        assert whole(opened).valid.all()
    third = write(tmp_path / "y" / "T32_B02.tif", ramp(4, 4))
    assert names(find_scenes([folder, third.parent], stack=True)) == ["S2A_T31.SAFE", "y"]


@pytest.mark.parametrize("empty", ["", " "])
def test_an_empty_name_is_not_this_folder(tmp_path, monkeypatch, empty):
    write(tmp_path / "a.tif", ramp())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="is empty"):
        find_scenes([empty])
    assert names(find_scenes(["."])) == ["a.tif"]


def test_another_sensor_is_resampled_to_the_first_ones_grid(tmp_path):
    """The radar covers less, in pixels twice as large that begin half a pixel further west."""
    first = write(tmp_path / "S2.tif", np.zeros((4, 8)), descriptions=("red",))
    radar = write(
        tmp_path / "S1.tif", [[1, 2, 0], [4, 5, 6]], size=20, west=WEST - 10, nodata=0,
        descriptions=("vv",),
    )  # fmt: skip
    (scene,) = find_scenes([first, radar], stack=True)
    assert scene.stem == "S2"
    with open_scene(scene, manifest("vv", "red")) as opened:
        assert opened.grid.width == 8
        pixels = whole(opened)
    # The third pixel of the radar's first row is missing, as is all that it does not reach.
    expected_valid = np.zeros((4, 8), bool)
    expected_valid[:2, :3] = True
    expected_valid[2:, :5] = True
    np.testing.assert_array_equal(pixels.valid, expected_valid)
    np.testing.assert_allclose(pixels.values[0][0, :3], [1.25, 1.75, 2])
    np.testing.assert_allclose(pixels.values[0][3, :5], [4.25, 4.75, 5.25, 5.75, 6])


def test_masks_are_kept_when_resampling(tmp_path):
    mask = np.array([[0, 255], [255, 255]], np.uint8)
    first = write(tmp_path / "red.tif", np.zeros((4, 4)))
    second = write(tmp_path / "green.tif", [[1, 2], [3, 4]], size=20, dtype="uint8", mask=mask)
    (scene,) = find_scenes([first, second], stack=True)
    with open_scene(scene, manifest("red", "green")) as opened:
        valid = whole(opened).valid
    np.testing.assert_array_equal(valid, np.kron(mask > 0, np.ones((2, 2), bool)))


def test_pixels_that_are_no_numbers_do_not_spread_when_resampling(tmp_path):
    first = write(tmp_path / "red.tif", np.zeros((4, 4)))
    second = write(tmp_path / "green.tif", [[np.nan, 2], [3, 4]], size=20)
    (scene,) = find_scenes([first, second], stack=True)
    with open_scene(scene, manifest("red", "green")) as opened:
        pixels = whole(opened)
    assert np.argwhere(~pixels.valid).tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    np.testing.assert_allclose(pixels.values[1][0, 2:], 2)


def test_pixels_that_a_file_does_not_reach_have_no_value(tmp_path):
    first = write(tmp_path / "red.tif", np.zeros((4, 8)))
    second = write(tmp_path / "green.tif", [[1, 2], [3, 4]], size=20, dtype="uint8")
    (scene,) = find_scenes([first, second], stack=True)
    with open_scene(scene, manifest("red", "green")) as opened:
        pixels = whole(opened)
    assert pixels.valid.tolist() == [[True] * 4 + [False] * 4] * 4
    np.testing.assert_allclose(pixels.values[1][0, :4], [1, 1.25, 1.75, 2])


def test_each_band_has_its_own_missing_values_when_resampling(tmp_path):
    first = write(tmp_path / "red.tif", np.zeros((4, 4)))
    second = write(tmp_path / "two.tif", [[[1, 1], [1, 1]], [[9, 1], [1, 1]]], size=20, nodata=9,
                   descriptions=("vv", "vh"))  # fmt: skip
    (scene,) = find_scenes([first, second], stack=True)
    with open_scene(scene, manifest("vv", "vh", "red")) as opened:
        pixels = whole(opened)
    assert np.argwhere(~pixels.valid).tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert (pixels.values[1][pixels.valid] == 1).all()


def test_files_of_other_projections_are_resampled(tmp_path):
    first = write(tmp_path / "red.tif", np.zeros((20, 20)))
    (west, east), (south, north) = transform(
        UTM, "EPSG:4326", [WEST - 500, WEST + 700], [NORTH - 700, NORTH + 500]
    )
    degrees = from_origin(west, north, (east - west) / 30, (north - south) / 30)
    second = write(tmp_path / "green.tif", np.full((30, 30), 7), crs="EPSG:4326", transform=degrees)
    (scene,) = find_scenes([first, second], stack=True)
    with open_scene(scene, manifest("red", "green")) as opened:
        pixels = whole(opened)
    assert pixels.valid.all()
    assert (pixels.values[1] == 7).all()


def test_files_that_lie_nowhere_go_together_by_their_size(tmp_path):
    first = write(tmp_path / "red.tif", ramp(), crs=None, transform=None)
    same = write(tmp_path / "green.tif", ramp() + 1, crs=None, transform=None)
    placed = write(tmp_path / "blue.tif", ramp() + 2)
    (scene,) = find_scenes([first, same, placed], stack=True)
    with open_scene(scene, manifest("red", "green", "blue")) as opened:
        np.testing.assert_array_equal(whole(opened).values, [ramp(), ramp() + 1, ramp() + 2])
    (scene,) = find_scenes([first.parent], stack=True)
    with open_scene(scene, manifest("red", "blue")) as opened:
        assert opened.grid.is_placed
    other = write(tmp_path / "nir.tif", ramp(5, 5), crs=None, transform=None)
    (scene,) = find_scenes([placed, other], stack=True)
    with (
        pytest.raises(RasterError, match=r"differ in size, and nir\.tif does not say where"),
        open_scene(scene, manifest("blue", "nir")),
    ):
        pass


def test_files_of_other_places_are_refused(tmp_path):
    first = write(tmp_path / "red.tif", ramp())
    second = write(tmp_path / "green.tif", ramp(), west=WEST + 50)
    (scene,) = find_scenes([first, second], stack=True)
    with (
        pytest.raises(RasterError, match="show different places"),
        open_scene(scene, manifest("red", "green")),
    ):
        pass


def test_pairs_are_brought_onto_the_second_ones_grid(tmp_path):
    before = write(tmp_path / "a.tif", ramp(4, 6), west=WEST - 10)
    after = write(tmp_path / "b.tif", ramp(4, 5) + 50)
    with open_pair(before, after, manifest("red")) as pair:
        pixels = whole(pair)
        assert "resampled to the grid of b.tif, bilinear: a.tif (10 m)" in pair.matching
        assert pair.name == "b.tif"
    np.testing.assert_array_equal(pixels.values[0], [ramp(4, 6)[:, 1:], ramp(4, 5) + 50])


@pytest.mark.parametrize(
    ("stem", "sensor", "band"),
    [
        ("T31UDQ_20240601T105441_B04_10m", None, "red"),
        ("LC08_L2SP_199026_20240601_02_T1_SR_B5", "landsat-8", "nir08"),
        ("s1a-iw-grd-vh-20240601t054113-002", None, "vh"),
        ("scene_dem", None, "dem"),
        ("T31UDQ_20240601T105441_TCI", None, None),
    ],
)
def test_names_of_files_say_their_band(stem, sensor, band):
    assert band_of_file(stem, sensor) == band


@pytest.mark.parametrize(
    ("stems", "stem"),
    [
        (["T31_2024_B02_10m", "T31_2024_B11_20m"], "T31_2024"),
        (["B02", "B03"], ""),
        (["S2", "S1"], "S2"),
        (["lake_red", "lake_nir"], "lake"),
    ],
)
def test_a_stack_is_called_what_its_files_have_in_common(stems, stem):
    assert stack_stem(stems) == stem


def test_one_thread_opens_a_scene_and_another_reads_it(tmp_path):
    first = write(tmp_path / "red.tif", np.zeros((4, 4)))
    second = write(tmp_path / "green.tif", [[1, 2], [3, 4]], size=20)
    (scene,) = find_scenes([first, second], stack=True)
    with open_scene(scene, manifest("red", "green")) as opened, ThreadPoolExecutor(1) as reader:
        pixels = reader.submit(whole, opened).result()
    np.testing.assert_allclose(pixels.values[1][0], [1, 1.25, 1.75, 2])


# --------------------------------------------------------------------------- areas


def lonlat(*corners):
    xs, ys = zip(*corners, strict=True)
    return list(zip(*transform(UTM, "EPSG:4326", xs, ys), strict=True))


def geojson(path, *polygons, crs=None):
    features = [
        {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [p]}}
        for p in polygons
    ]
    content = {"type": "FeatureCollection", "features": features}
    if crs:
        content["crs"] = {"type": "name", "properties": {"name": crs}}
    path.write_text(json.dumps(content))
    return path


def square(col, row, width, height):
    """Corners of a rectangle of 10 m pixels, in UTM."""
    left, top = WEST + 10 * col, NORTH - 10 * row
    right, bottom = left + 10 * width, top - 10 * height
    return [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]


@contextmanager
def opened(path, area, *bands):
    (scene,) = find_scenes([path])
    with open_scene(scene, manifest(*(bands or ("red",))), area=area) as found:
        yield found


def test_a_box_cuts_the_scenes_own_pixels(tmp_path):
    path = write(tmp_path / "a.tif", ramp(10, 12))
    box = f"{WEST + 20},{NORTH - 60},{WEST + 51},{NORTH - 30}"
    for text in (box, box.replace(",", " ")):
        with opened(path, parse_bbox(text)) as scene:
            assert scene.grid.transform == from_origin(WEST + 20, NORTH - 30, 10, 10)
            pixels = whole(scene)
        np.testing.assert_array_equal(pixels.values[0], ramp(10, 12)[3:6, 2:6])
        assert pixels.valid.all()


def test_a_box_in_degrees_is_found(tmp_path):
    path = write(tmp_path / "a.tif", ramp(10, 12))
    (west, north), (east, south) = lonlat((WEST + 25, NORTH - 35), (WEST + 45, NORTH - 55))
    text = f"{west},{south},{east},{north}"
    for crs in (None, "EPSG:4326"):
        with opened(path, parse_bbox(text, crs)) as scene:
            np.testing.assert_array_equal(whole(scene).values[0], ramp(10, 12)[3:6, 2:5])
    with pytest.raises(OutsideAreaError), opened(path, parse_bbox(text, "scene")):
        pass


def test_a_box_may_cross_the_date_line(tmp_path):
    path = write(
        tmp_path / "a.tif", ramp(4, 8), crs="EPSG:4326", transform=from_origin(-180, 2, 1, 1)
    )
    with opened(path, parse_bbox("179,-2,-176,2")) as scene:
        np.testing.assert_array_equal(whole(scene).values[0], ramp(4, 8)[:, :4])


@pytest.mark.parametrize("place", [
    Affine(8, 3, WEST, 3, -8, NORTH), Affine(10, 0, WEST, 0, 10, NORTH),
], ids=["rotated", "south up"])  # fmt: skip
def test_areas_are_found_however_a_scene_lies(tmp_path, place):
    values = ramp(9, 11)
    path = write(tmp_path / "a.tif", values, transform=place)
    corners = [place @ corner for corner in ((2, 3), (6, 3), (6, 7), (2, 7), (2, 3))]
    area = read_area(geojson(tmp_path / "a.geojson", corners, crs="EPSG:32631"))
    with opened(path, area) as scene:
        np.testing.assert_array_equal(whole(scene).values[0], values[3:7, 2:6])
        assert scene.grid.transform.almost_equals(place @ Affine.translation(2, 3))


@pytest.mark.parametrize("text", ["1,2,3", "a,b,c,d", "3,1,3,2", "1,5,2,4", "1,2,nan,4", ""])
def test_what_is_no_box_is_refused(text):
    with pytest.raises(UsageError, match="--bbox"):
        parse_bbox(text)


def test_systems_that_are_none_are_refused():
    with pytest.raises(UsageError, match="no coordinate reference system 'EPSG:0'"):
        parse_bbox("1,2,3,4", "EPSG:0")


def test_pixels_outside_an_area_have_no_value_and_windows_outside_are_not_read(tmp_path):
    values = ramp(40, 40)
    path = write(tmp_path / "a.tif", values)
    corners = square(4, 4, 4, 4), square(30, 30, 3, 2)
    degrees = [lonlat(*polygon) for polygon in corners]
    with opened(path, read_area(geojson(tmp_path / "a.geojson", *degrees))) as scene:
        assert (scene.grid.height, scene.grid.width) == (28, 29)
        pixels = whole(scene)
        part = scene.read(Tile(20, 20, 8, 9))
        between = scene.read(Tile(10, 10, 8, 8))
    expected = np.zeros((28, 29), bool)
    expected[:4, :4] = expected[26:28, 26:29] = True
    np.testing.assert_array_equal(pixels.valid, expected)
    np.testing.assert_array_equal(part.valid, expected[20:28, 20:29])
    np.testing.assert_array_equal(pixels.values[0][expected], values[4:32, 4:33][expected])
    assert between.values.shape[0] == 0


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_tiles_of_an_area_fit_together(data):
    points = data.draw(
        st.lists(st.tuples(st.floats(-5, 45), st.floats(-5, 45)), min_size=3, max_size=9)
    )
    grid = Grid(40, 40, UTM, Affine.identity())
    parts = shapely.get_parts(shapely.make_valid(shapely.Polygon(points)))
    outline = shapely.union_all([part for part in parts if "Polygon" in part.geom_type])
    try:
        cut = Area("a", outline, None).cut(grid, "s")
    except OutsideAreaError:
        return
    size = data.draw(st.integers(1, 15))
    height, width = cut.grid.height, cut.grid.width
    joined = np.zeros((height, width), bool)
    for row in range(0, height, size):
        for col in range(0, width, size):
            tile = Tile(row, col, min(size, height - row), min(size, width - col))
            joined[tile.slices] = cut.inside(tile)
    rows, cols = np.indices((height, width)) + 0.5
    near = shapely.dwithin(
        outline.boundary, shapely.points(cols + cut.tile.col, rows + cut.tile.row), 1e-6
    )
    centres = shapely.contains_xy(outline, cols + cut.tile.col, rows + cut.tile.row)
    np.testing.assert_array_equal(joined[~near], centres[~near])


def test_areas_of_all_usual_formats_are_read(tmp_path):
    import geopandas

    path = write(tmp_path / "a.tif", ramp(10, 12))
    frame = geopandas.GeoDataFrame(geometry=[shapely.Polygon(square(2, 3, 4, 3))], crs=UTM)
    for name in ("a.gpkg", "a.shp", "a.fgb", "a.geojson"):
        (frame.to_crs(4326) if name.endswith("json") else frame).to_file(tmp_path / name)
        with opened(path, read_area(tmp_path / name)) as scene:
            np.testing.assert_array_equal(whole(scene).values[0], ramp(10, 12)[3:6, 2:6])
    (tmp_path / "a.prj").unlink()
    with pytest.raises(DataError, match="no coordinate reference system"):
        read_area(tmp_path / "a.shp")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "no GeoJSON"),
        ("[]", "damaged GeoJSON"),
        ('"text"', "damaged GeoJSON: it is not made as one is"),
        ('{"type": "FeatureCollection"}', "damaged GeoJSON"),
        ('{"type": "Polygon", "coordinates": 5}', "damaged GeoJSON"),
        ('{"type": "Polygon", "coordinates": [[[1, 2], [3]]]}', "damaged GeoJSON"),
        ('{"type": "Point", "coordinates": [1, 2]}', "has no polygons"),
        ('{"type": "FeatureCollection", "features": []}', "has no polygons"),
        ('{"type": "Polygon", "coordinates": [[[5e5, 4e6], [6e5, 4e6], [6e5, 5e6], [5e5, 4e6]]]}',
         "not in degrees"),
    ],
)  # fmt: skip
def test_areas_that_are_none_are_refused(tmp_path, content, says):
    (tmp_path / "a.geojson").write_text(content)
    with pytest.raises(DataError, match=says):
        read_area(tmp_path / "a.geojson")


@pytest.mark.parametrize(
    "start", [b"SQLite format 3\0", b"\x00\x00\x27\x0a", b"fgb\x03", b"\xff\xfe"]
)
def test_damaged_areas_are_refused(tmp_path, start):
    (tmp_path / "a.gpkg").write_bytes(start + b"\x07" * 200)
    with pytest.raises(DataError, match=r"The area .*a\.gpkg"):
        read_area(tmp_path / "a.gpkg")
    with pytest.raises(DataError, match="cannot be read"):
        read_area(tmp_path / "none.gpkg")


def test_unknown_systems_are_refused_in_one_message(capfd):
    with pytest.raises(UsageError, match="no coordinate reference system 'EPSG:999999'"):
        parse_bbox("1,2,3,4", "EPSG:999999")
    assert capfd.readouterr().err == ""


def test_scenes_outside_are_told_apart_from_those_that_lie_nowhere(tmp_path):
    here = write(tmp_path / "a.tif", ramp())
    nowhere = write(tmp_path / "b.tif", ramp(), crs=None, transform=None)
    area = parse_bbox("100,10,101,11")
    with (
        pytest.raises(OutsideAreaError, match=r"a\.tif has nothing of --bbox") as told,
        opened(here, area),
    ):
        pass
    assert told.value.hint.startswith("The scene's west, south, east and north are 3, 45.15")
    with pytest.raises(RasterError, match="no coordinates") as caught, opened(nowhere, area):
        pass
    assert not isinstance(caught.value, OutsideAreaError)
    tiny = [(WEST + x, NORTH - y) for x, y in ((1, 1), (2, 1), (2, 2), (1, 1))]
    small = read_area(geojson(tmp_path / "t.geojson", lonlat(*tiny)))
    with pytest.raises(OutsideAreaError, match="not one whole pixel"), opened(here, small):
        pass


def test_a_part_of_a_grid_keeps_its_polynomials():
    ones = [1.0] * 20
    rpcs = RPC(
        height_off=0, height_scale=1, lat_off=50, lat_scale=1, long_off=2, long_scale=1,
        line_off=100, line_scale=100, samp_off=200, samp_scale=100, line_num_coeff=ones,
        line_den_coeff=ones, samp_num_coeff=ones, samp_den_coeff=ones,
    )  # fmt: skip
    part = Grid(10, 10, None, None, rpcs=rpcs).cut(Tile(3, 4, 2, 2))
    assert (part.rpcs.line_off, part.rpcs.samp_off) == (rpcs.line_off - 3, rpcs.samp_off - 4)


# --------------------------------------------------------------------------- units


PLAN = WindowPlan(40, 40, 16, 0)


def units(tmp_path, values, *bands, mean, std, scale=None):
    path = write(tmp_path / "a.tif", values)
    with open_scene(path, manifest(*bands, mean=mean, std=std), scale=scale) as scene:
        return check_units(scene, PLAN)


_SURFACE = np.linspace(0.02, 0.45, 1600).reshape(40, 40)


@pytest.mark.parametrize(
    ("values", "bands", "mean", "std", "option"),
    [
        (_SURFACE, ("red",), 1500, 800, "10000"),
        (_SURFACE * 1e4, ("red",), 0.15, 0.08, "0.0001"),
        (_SURFACE, ("green",), 110, 50, "255"),
        (_SURFACE / 2, ("vv",), -12, 5, "db"),
        (10 * np.log10(_SURFACE / 2), ("vh",), 0.1, 0.1, "linear"),
    ],
)
def test_other_units_are_refused_with_what_mends_them(tmp_path, values, bands, mean, std, option):
    with pytest.raises(RasterError, match=r"a\.tif are in other units") as caught:
        units(tmp_path, values, *bands, mean=mean, std=std)
    assert f"--scale {option};" in caught.value.hint
    assert f"{bands[0]}: median" in caught.value.message
    assert units(tmp_path, values, *bands, mean=mean, std=std, scale=parse_scale(option)) == []
    told = units(tmp_path, values, *bands, mean=mean, std=std, scale=parse_scale("1"))
    assert option in ("db", "linear") or "will hardly be right" in told[0]


def test_bands_of_two_kinds_are_mended_by_name(tmp_path):
    values = np.stack([_SURFACE, _SURFACE, 10 * np.log10(_SURFACE)])
    path = write(tmp_path / "a.tif", values, descriptions=("red", "nir", "vv"))
    wanted = manifest("red", "nir", "vv", mean=1500, std=800)
    radar = wanted.statistics["vv"].model_copy(update={"mean": -9.0, "std": 4.0})
    wanted = wanted.model_copy(update={"statistics": {**wanted.statistics, "vv": radar}})
    with open_scene(path, wanted) as scene, pytest.raises(RasterError) as caught:
        check_units(scene, PLAN)
    assert "--scale optical=10000;" in caught.value.hint
    scale = parse_scale("optical=10000")
    with open_scene(path, wanted, scale=scale) as scene:
        assert check_units(scene, PLAN) == []
        expected = (values * [[[1e4]], [[1e4]], [[1]]]).astype(np.float32)
        seen = whole(scene).values * scene.std + scene.mean
        np.testing.assert_allclose(seen, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("values", "mean", "std"),
    [
        (_SURFACE * 1e4, 1500, 800),
        (_SURFACE * 3000, 1500, 800),  # another season
        (np.full((40, 40), 0.0), 1500, 800),  # nothing to see
    ],
)
def test_what_may_be_right_is_not_refused(tmp_path, values, mean, std):
    units(tmp_path, values, "red", mean=mean, std=std)


def test_few_windows_are_looked_at_however_large_a_scene_without_data_is(tmp_path):
    size = {"height": 20_000, "width": 20_000, "count": 1, "dtype": "float32", "driver": "GTiff"}
    tiles = {"tiled": True, "blockxsize": 512, "blockysize": 512, "SPARSE_OK": True}
    place = {"crs": UTM, "transform": from_origin(WEST, NORTH, 10, 10), "nodata": np.nan}
    path = tmp_path / "a.tif"
    with rasterio.open(path, "w", **size, **tiles, **place):
        pass
    read = []
    with open_scene(path, manifest("red")) as scene:
        counted = scene.read
        scene.read = lambda tile: read.append(tile) or counted(tile)
        assert check_units(scene, WindowPlan(20_000, 20_000, 512, 64)) == []
    assert 40 <= len(read) <= 100


def test_units_are_looked_at_where_there_is_data(tmp_path):
    values = np.full((40, 40), np.nan)
    values[33:, 33:] = 0.2
    with pytest.raises(RasterError, match="other units"):
        units(tmp_path, values, "red", mean=1500, std=800)
    assert units(tmp_path, np.full((40, 40), np.nan), "red", mean=1500, std=800) == []


def test_scales_are_told_by_what_they_do():
    scale = parse_scale("optical=10000,VV=db")
    assert scale.describe(("red", "vv", "dem")) == "red × 10000; vv in decibels"
    assert parse_scale("2").describe(("red", "vv")) == "× 2"
    assert parse_scale("sar=linear").of("vh") == "linear"
    assert parse_scale("optical=3").of("lwir11") == 1


def test_decibels_of_nothing_are_missing(tmp_path):
    path = write(tmp_path / "a.tif", [[0.1, 0, -1, 100]])
    with open_scene(path, manifest("vv"), scale=parse_scale("VV=db")) as scene:
        pixels = whole(scene)
    assert pixels.valid.tolist() == [[True, False, False, True]]
    np.testing.assert_allclose(pixels.values[0, 0, [0, 3]], [-10, 20], atol=1e-5)


@given(st.floats(1e-3, 1e6), st.lists(st.floats(0.0078125, 8192, width=32), min_size=1, max_size=8))
def test_linear_undoes_decibels(factor, values):
    changed = np.array([values], np.float32)
    Scale("db").apply(("vv",), changed)
    Scale("linear").apply(("vv",), changed)
    Scale(factor).apply(("vv",), changed)
    np.testing.assert_allclose(changed[0], np.array(values) * factor, rtol=1e-3)


@pytest.mark.parametrize("text", ["x", "0", "-1", "red=", "purple=2", "red=2,3", "", "inf", ","])
def test_scales_that_are_none_are_refused(text):
    with pytest.raises(UsageError, match="--scale"):
        parse_scale(text)


# --------------------------------------------------------------------------- as users type it


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project with a fitted model of random weights."""
    from tests.fits import tiny_recipe, write_fit  # many seconds, which the other tests do without

    folder = tmp_path_factory.mktemp("project")
    write_fit(folder / "experiments" / "fit" / "tiny" / "20260101-000000", tiny_recipe())
    return folder / "experiments"


def predict(project, *words, code=0):
    options = ("--experiments", project, "--no-quicklook", "--overwrite")
    assert main(["predict", *map(str, words), *map(str, options)]) == code


BANDS = ("blue", "green", "red", "nir", "vv", "vh")


def measured():
    """A scene of the model's bands: four of reflectance and two of radar."""
    rng = np.random.default_rng(0)
    return np.concatenate([rng.normal(1000, 300, (4, 40, 50)), rng.normal(-10, 3, (2, 40, 50))])


def classes(path):
    with rasterio.open(path) as dataset:
        return dataset.read(1)


def test_files_of_bands_and_scenes_of_other_units_give_the_same_map(tmp_path, project, capsys):
    values = measured()
    write(tmp_path / "all.tif", values, descriptions=BANDS)
    predict(project, tmp_path / "all.tif")
    expected = classes(tmp_path / "all_pred.tif")

    for name, band in zip(BANDS, values, strict=True):
        write(tmp_path / f"site/{name}.tif", band)
    predict(project, tmp_path / "site", "--stack")
    np.testing.assert_array_equal(classes(tmp_path / "site_pred.tif"), expected)

    other = np.concatenate([values[:4] / 10_000, 10 ** (values[4:] / 10)])
    path = write(tmp_path / "other.tif", other, descriptions=BANDS)
    predict(project, path, code=3)
    assert "--scale optical=10000,sar=db;" in " ".join(capsys.readouterr().err.split())
    predict(project, path, "--scale", "optical=10000,sar=db")
    assert (classes(tmp_path / "other_pred.tif") == expected).mean() > 0.99


def test_an_area_of_a_list_of_scenes_is_mapped(tmp_path, project, capsys):
    for number in range(2):
        write(tmp_path / f"s{number}.tif", measured(), descriptions=BANDS, west=WEST + 300 * number)
    (tmp_path / "list.txt").write_text("s0.tif\ns1.tif # the eastern one\n")
    area = geojson(tmp_path / "a.geojson", lonlat(*square(10, 5, 8, 6)))
    predict(project, tmp_path / "list.txt", "--aoi", area, "--json")
    found = json.loads(capsys.readouterr().out)["results"]
    assert [entry["state"] for entry in found] == ["mapped", "skipped"]
    with rasterio.open(tmp_path / "s0_pred.tif") as dataset:
        assert dataset.shape == (6, 8)
        assert dataset.transform == from_origin(WEST + 100, NORTH - 50, 10, 10)
        assert (dataset.read(1) < 255).all()


# --------------------------------------------------------------------------- memory


def test_strips_stay_in_memory_for_the_windows_beside(tmp_path):
    """GDAL keeps what one row of windows needs of strips, and little of tiles."""
    from eosfm_cli.raster.opening import cache_needed

    size = {"height": 3000, "width": 6000, "count": 2, "dtype": "float32", "driver": "GTiff"}
    for name, options in {
        "strips": {"blockysize": 4},
        "tiles": {"tiled": True, "blockxsize": 256, "blockysize": 256},
    }.items():
        with rasterio.open(
            tmp_path / f"{name}.tif", "w", **size, **options, crs=UTM, SPARSE_OK=True,
            transform=from_origin(WEST, NORTH, 10, 10),
        ):  # fmt: skip
            pass
    with open_raster(tmp_path / "strips.tif") as dataset:
        assert cache_needed(dataset, 1, 512) >= 512 * 6000 * 4 // 2**20
    with open_raster(tmp_path / "tiles.tif") as dataset:
        assert cache_needed(dataset, 1, 512) == 0


def test_palettes_are_noticed(tmp_path):
    path = write(tmp_path / "a.tif", ramp(), dtype="uint8")
    with rasterio.open(path, "r+") as dataset:
        dataset.colorinterp = [ColorInterp.palette]
        dataset.write_colormap(1, {0: (1, 2, 3, 255)})
    with open_scene(path, manifest("red")) as scene:
        assert scene.has_palette
