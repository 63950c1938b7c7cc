#!/usr/bin/env python3
"""Make reference/ once, from published Python packages. Runs of seg1a need none of them.

    python tools/build_reference.py            write reference/
    python tools/build_reference.py --check    rebuild in a temporary folder and compare with reference/

The packages are installed at fixed versions into a throw-away virtual environment; the one wheel that is only
read as an archive (geopandas, for its Natural Earth table) is downloaded and never installed. What is copied, what is computed
here and under which licences it stands is written down in reference/README.md and reference/LICENCES.md.
"""
import argparse
import csv
import hashlib
import io
import json
import struct
import subprocess
import sys
import tempfile
import zipfile
from fractions import Fraction
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ["iso3166==3.0.0", "babel==2.18.0", "iso18245==1.4.1", "tzfpy==2.1.1"]
NATURAL_EARTH = "geopandas==0.14.4"

GDP_YEAR = 2019
GDP_SERIES = "Natural Earth 110m GDP_MD*1e6/POP_EST, 2019, current USD (not NY.GDP.PCAP.KD, not 2015 prices)"
LICENCES = {  # as a pack's manifest states them; the texts are in reference/LICENCES.md
    "iso3166": "MIT", "gdp": "public domain (Natural Earth)", "gdp_bucket_map": "public domain (computed from Natural Earth)",
    "static.currency_to_country.map": "Unicode-3.0", "tz_world": "ODbL-1.0"}
NO_RESIDENTS = {"AQ", "TF"}  # Antarctica and the French Southern Lands: a GDP figure, but nobody to sell to
BUCKET_LABELS = ["low", "lower middle", "middle", "upper middle", "high"]
ZONES = ["Africa/Nairobi", "America/New_York", "America/Sao_Paulo", "Asia/Kolkata", "Asia/Tokyo", "Australia/Sydney",
         "Europe/London", "Europe/Zurich"]

# name, first code, last code, merchants per 100 000, card-not-present per 1 000, codes with a share of their own (per 100 000).
# The figures are the project's own, chosen to be plausible: no public table of merchant counts by MCC exists.
GROUPS = [
    ("agriculture", 700, 999, 1130, 60, {742: 650, 780: 300}),
    ("contractors", 1500, 2999, 4520, 120, {1520: 780, 1711: 1130, 1731: 870, 1799: 960}),
    ("airlines", 3000, 3350, 300, 900, {}),
    ("car_rental_brands", 3351, 3500, 220, 550, {}),
    ("lodging_brands", 3501, 3999, 780, 500, {}),
    ("transport", 4000, 4799, 3220, 420, {4121: 1300, 4722: 610, 4214: 430, 4111: 220}),
    ("utilities", 4800, 4999, 1300, 600, {4814: 430, 4816: 260, 4899: 220, 4900: 220}),
    ("wholesale", 5000, 5199, 3650, 350, {5045: 520, 5065: 350, 5072: 260, 5099: 430}),
    ("building_supply", 5200, 5299, 1650, 110, {5200: 480, 5211: 520, 5251: 350}),
    ("general_stores", 5300, 5399, 2350, 90, {5311: 700, 5331: 610, 5399: 610}),
    ("groceries", 5400, 5499, 8350, 60, {5411: 4870, 5499: 1480, 5462: 870, 5441: 350}),
    ("motoring", 5500, 5599, 5480, 50, {5541: 2260, 5542: 1480, 5533: 780}),
    ("clothing", 5600, 5699, 5300, 330, {5651: 1650, 5691: 1130, 5661: 780, 5621: 610}),
    ("home_electronics", 5700, 5799, 3130, 370, {5712: 870, 5732: 1040, 5719: 390}),
    ("restaurants", 5800, 5814, 15490, 70, {5812: 8520, 5814: 5300, 5813: 1220}),
    ("digital_goods", 5815, 5818, 1390, 980, {5816: 390, 5817: 300, 5818: 430}),
    ("other_retail", 5819, 5959, 6870, 280, {5912: 1740, 5921: 870, 5941: 650, 5942: 430, 5944: 610, 5947: 610}),
    ("direct_marketing", 5960, 5969, 1830, 985, {5964: 610, 5968: 430, 5969: 390}),
    ("specialist_retail", 5970, 5999, 3740, 300, {5977: 780, 5992: 570, 5995: 430, 5999: 1300}),
    ("finance", 6000, 6499, 1650, 450, {6011: 430, 6012: 300, 6300: 430}),
    ("property_lodging", 6500, 7199, 2520, 480, {7011: 1740, 6513: 520}),
    ("personal_services", 7200, 7299, 4870, 130, {7230: 2170, 7298: 610, 7299: 700, 7216: 390}),
    ("business_services", 7300, 7529, 4610, 620, {7311: 520, 7372: 780, 7392: 780, 7399: 1130, 7523: 350}),
    ("repair", 7530, 7799, 3040, 60, {7538: 1480, 7542: 520}),
    ("leisure", 7800, 7999, 3390, 260, {7832: 220, 7922: 350, 7995: 220, 7997: 960, 7999: 610}),
    ("health", 8000, 8099, 4700, 140, {8011: 1480, 8021: 1220, 8043: 390, 8099: 780}),
    ("professional", 8100, 8999, 3740, 560, {8111: 610, 8220: 220, 8299: 520, 8398: 430, 8931: 430, 8999: 700}),
    ("government", 9000, 9999, 780, 520, {9399: 300, 9311: 130}),
]


def csv_text(header, rows):
    "Rows as CSV: LF line ends, quotes only where needed, so that a later rebuild gives the same bytes."
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return out.getvalue()


# ---- inside the throw-away environment -------------------------------------------------------------------------------------

def extract():
    "What the packages hold, as plain JSON: nothing is computed here."
    import iso18245
    import iso3166
    import tzfpy
    from babel.core import get_global
    from importlib.metadata import version

    private = [(3000, 3350, "Airline"), (3351, 3500, "Car rental"), (3501, 3999, "Lodging")]  # names of single companies stay out
    mccs = []
    for record in iso18245.get_all_mccs():
        code = int(record.mcc)
        named = next((f"{kind} company {code}" for a, b, kind in private if a <= code <= b), None)
        mccs.append([code, named or record.iso_description or record.usda_description or record.visa_description
                     or record.mastercard_description or record.amex_description or record.alipay_description or record.stripe_description])
    tender = {iso: [c for c, _, end, legal in rows if end is None and legal] for iso, rows in get_global("territory_currencies").items()}
    zones = {z: json.loads(tzfpy.get_tz_polygon_geojson(z))["features"][0]["geometry"]["coordinates"] for z in ZONES}
    countries = [[c.alpha2, c.alpha3, int(c.numeric), c.name] for c in iso3166.countries if c.alpha2 != "XK"]  # user-assigned, not ISO
    versions = {p: version(p) for p in ("iso3166", "babel", "iso18245", "tzfpy")}
    return {"countries": countries, "mccs": mccs, "tender": tender, "zones": zones, "tz_data": tzfpy.data_version(), "versions": versions}


# ---- outside -------------------------------------------------------------------------------------------------------------------

def gather(folder):
    "Install the packages beside the project, run `extract` there, and download the one wheel that is only read."
    python = folder / "venv" / "bin" / "python"
    subprocess.check_call([sys.executable, "-m", "venv", str(folder / "venv")])
    subprocess.check_call([str(python), "-m", "pip", "install", "-q", *PACKAGES], stdout=sys.stderr)
    subprocess.check_call([str(python), "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder), NATURAL_EARTH], stdout=sys.stderr)
    facts = json.loads(subprocess.check_output([str(python), str(Path(__file__).resolve()), "--extract"]))
    wheel = next(folder.glob("geopandas-*.whl"))
    facts["versions"]["geopandas (archive only)"] = wheel.name.split("-")[1]
    facts["wheel_sha256"] = hashlib.sha256(wheel.read_bytes()).hexdigest()
    with zipfile.ZipFile(wheel) as archive:
        facts["economies"] = dbf_rows(archive.read("geopandas/datasets/naturalearth_lowres/naturalearth_lowres.dbf"))
    return facts


def dbf_rows(data):
    "Rows of a dBase III table (fixed-width text), Latin-1 as its .cpg file says."
    count, header, width = struct.unpack("<IHH", data[4:12])
    fields, at = [], 32
    while data[at] != 0x0D:
        fields.append((data[at:at + 11].rstrip(b"\0").decode("ascii"), data[at + 16]))
        at += 32
    rows = []
    for i in range(count):
        at, row = header + i * width + 1, {}
        for name, size in fields:
            row[name] = data[at:at + size].decode("latin-1").strip()
            at += size
        rows.append(row)
    return rows


def economies(facts):
    "(iso, population, GDP in million USD) of every ISO country that Natural Earth knows and people live in."
    alpha2 = {a3: a2 for a2, a3, _, _ in facts["countries"]}
    out = []
    for row in facts["economies"]:
        iso, people, gdp = alpha2.get(row["iso_a3"]), Fraction(row["pop_est"]), int(row["gdp_md_est"])
        if iso and iso not in NO_RESIDENTS and people > 0 and gdp > 0:
            out.append((iso, int(people), gdp))
    return sorted(out)


def per_capita(gdp_million, people):
    "GDP per head in USD to the cent, rounded half to even in exact arithmetic, as decimal text."
    cents = round(Fraction(gdp_million * 10**6 * 100, people))
    return f"{cents // 100}.{cents % 100:02d}"


def mix_rows(mccs):
    """(mcc, group, weight, cnp_per_1000): weights are merchants per million.

    Codes with a share of their own get it; the rest of a group's share falls to its other codes as 1/rank in code order, at
    least 1 each: a few codes hold most merchants and a long tail of codes has a handful, as in any acquirer's book.
    """
    rows = []
    for name, first, last, share, cnp, own in GROUPS:
        codes = [c for c, _ in mccs if first <= c <= last]
        rest = [c for c in codes if c not in own]
        missing = set(own) - set(codes)
        assert not missing, f"group {name}: codes {missing} are not in the MCC list"
        left = (share - sum(own.values())) * 10
        harmonic = sum(Fraction(1, r) for r in range(1, len(rest) + 1))
        weight = {c: own[c] * 10 for c in own}
        weight.update({c: max(1, int(left / (r * harmonic))) for r, c in enumerate(rest, 1)})
        rows += [(c, name, weight[c], cnp) for c in codes]
    assert len(rows) == len(mccs) == len({r[0] for r in rows}), "every MCC belongs to one group"
    return sorted(rows)


def simplified(ring, tolerance):
    "Douglas-Peucker (1973) on a closed ring, degrees; iterative, so that a long coast line does not exhaust the stack."
    keep, stack = {0, len(ring) - 1}, [(0, len(ring) - 1)]
    while stack:
        a, b = stack.pop()
        (ax, ay), (bx, by) = ring[a], ring[b]
        length = ((bx - ax) ** 2 + (by - ay) ** 2) ** 0.5
        far, at = -1.0, None
        for i in range(a + 1, b):
            x, y = ring[i]
            away = abs((bx - ax) * (ay - y) - (ax - x) * (by - ay)) / length if length else ((x - ax) ** 2 + (y - ay) ** 2) ** 0.5
            if away > far:
                far, at = away, i
        if at is not None and far > tolerance:
            keep.add(at)
            stack += [(a, at), (at, b)]
    return [ring[i] for i in sorted(keep)]


def zone_rows(facts):
    "(tzid, WKT of the largest ring, source): a sketch of the zone, good for pinning, not for looking up points."
    rows = []
    for zone in ZONES:
        ring = max((polygon[0] for polygon in facts["zones"][zone]), key=len)
        points = ", ".join(f"{x:.2f} {y:.2f}" for x, y in simplified(ring, 0.25))
        rows.append((zone, f"POLYGON (({points}))", f"timezone-boundary-builder {facts['tz_data']} by tzfpy, simplified to 0.25 degrees"))
    return rows


def tables(facts):
    "All files of reference/ that are made by this script: name -> text."
    from seg1a.inputs.snapshot import jenks_breaks

    rows = economies(facts)
    gdp = [(iso, GDP_YEAR, per_capita(md, people), GDP_SERIES) for iso, people, md in rows]
    breaks = jenks_breaks({iso: float(value) for iso, _, value, _ in gdp})
    bucket = [(iso, b, BUCKET_LABELS[b - 1], "jenks", 5, GDP_YEAR) for iso, b in sorted(breaks.bucket.items())]
    known = {iso for iso, *_ in facts["countries"]}
    currency = {}
    for iso in sorted(known):
        for code in facts["tender"].get(iso, []):
            currency.setdefault(code, []).append(iso)
    sources = {"packages": facts["versions"], "geopandas_wheel_sha256": facts["wheel_sha256"], "time_zone_data": facts["tz_data"],
               "licences": LICENCES}
    pretty = {"sort_keys": True, "indent": 2, "ensure_ascii": True}
    return {
        "iso3166.csv": csv_text(["country_iso", "alpha3", "numeric_code", "name"], sorted(facts["countries"])),
        "gdp.csv": csv_text(["country_iso", "observation_year", "gdp_pc_usd_2015", "source_series"], gdp),
        "gdp_bucket_map.csv": csv_text(["country_iso", "bucket_id", "bucket_label", "method", "k", "source_year"], bucket),
        "population.csv": csv_text(["country_iso", "year", "population", "gdp_million_usd"], [(i, GDP_YEAR, p, g) for i, p, g in rows]),
        "mcc.csv": csv_text(["mcc", "description"], sorted(facts["mccs"])),
        "merchant_mix.csv": csv_text(["mcc", "group", "weight", "cnp_per_1000"], mix_rows(facts["mccs"])),
        "tz_world.csv": csv_text(["tzid", "geometry_wkt", "source"], zone_rows(facts)),
        "static.currency_to_country.map.json": json.dumps(currency, **pretty) + "\n",
        "sources.json": json.dumps(sources, **pretty) + "\n",
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with reference/ instead of writing")
    parser.add_argument("--extract", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.extract:
        json.dump(extract(), sys.stdout)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        made = tables(gather(Path(folder)))
    home = ROOT / "reference"
    differ = [n for n, text in made.items() if not (home / n).is_file() or (home / n).read_bytes() != text.encode("utf-8")]
    if not args.check:
        for name in differ:
            (home / name).write_text(made[name], encoding="utf-8", newline="\n")
    print(f"{len(made)} files; {'differ' if args.check else 'written'}: {', '.join(differ) or 'none'}")
    return int(args.check and bool(differ))


if __name__ == "__main__":
    sys.exit(main())
