"""Wrong tables: merchants, countries, GDP, buckets, features."""

import io
import math
import struct

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as encryption
from bad_inputs.cases import BUCKETS, FEATURES, GDP, ISO, MERCHANTS, Case, Overlay, binary, cell, dropped, good, missing, pack_file, parquet, retyped, table, whole

LARGEST = 2**63 - 1


# ---- files that are no tables -------------------------------------------------------------------------------------------


def _footer(data: bytes) -> int:
    """Where the footer begins."""
    return len(data) - 8 - struct.unpack("<I", data[-8:-4])[0]


def with_footer_length(length: int):
    return lambda data: data[:-8] + struct.pack("<I", length) + data[-4:]


def without_rows(data: bytes) -> bytes:
    """The footer without the row groups that it describes."""
    return data[:4] + data[_footer(data):]


def zeroed_rows(data: bytes) -> bytes:
    return data[:4] + bytes(_footer(data) - 4) + data[_footer(data):]


def half_of_the_rows(data: bytes) -> bytes:
    """Row groups cut off in the middle, the footer put where they end."""
    return data[:_footer(data) // 2] + data[_footer(data):]


def miscounted(data: bytes, in_group: bool = False) -> bytes:
    """The footer says one row more than there are, of the file or of its only row group."""
    rows = pq.read_metadata(io.BytesIO(data)).num_rows
    old, new = (bytes([n << 1]) if n < 64 else bytes([n << 1 & 127 | 128, n >> 6]) for n in (rows, rows + 1))
    at = _footer(data)
    while (at := data.find(old, at)) >= 0:
        forged = data[:at] + new + data[at + len(old):]
        try:
            facts = pq.read_metadata(io.BytesIO(forged))
            if (facts.row_group(0).num_rows if in_group else facts.num_rows) == rows + 1:
                return forged
        except (pa.ArrowException, OSError):
            pass
        at += 1
    raise AssertionError("no count in the footer")


def footer_of_another(pack):
    """The rows of ten merchants under the footer of all."""
    content = pq.read_table(pack_file(pack, MERCHANTS)).replace_schema_metadata(None)
    few, all_of_them = parquet(content.slice(0, 10)), parquet(content)
    return {MERCHANTS: few[:_footer(few)] + all_of_them[_footer(all_of_them):]}


class _Keys(encryption.KmsClient):
    """Keys that protect nothing but the bytes."""

    def __init__(self, config):
        super().__init__()

    def wrap_key(self, key_bytes, master):
        return key_bytes.hex()

    def unwrap_key(self, wrapped, master):
        return bytes.fromhex(wrapped)


def encrypted(plaintext_footer: bool) -> Overlay:
    """The merchants, encrypted with a key that the engine does not have."""
    def overlay(pack):
        config = encryption.EncryptionConfiguration(footer_key="f", column_keys={"c": ["mcc"]}, plaintext_footer=plaintext_footer)
        properties = encryption.CryptoFactory(_Keys).file_encryption_properties(encryption.KmsConnectionConfig(), config)
        return {MERCHANTS: parquet(pq.read_table(pack_file(pack, MERCHANTS)), encryption_properties=properties)}
    return overlay


FILES = [
    Case("merchants: an empty file", "E_INGRESS_SCHEMA", (MERCHANTS,), overlay=whole(MERCHANTS, b"")),
    Case("merchants: one byte", "E_INGRESS_SCHEMA", (MERCHANTS,), overlay=whole(MERCHANTS, b"P")),
    Case("merchants: two magic words and nothing between", "E_INGRESS_SCHEMA", (MERCHANTS,), overlay=whole(MERCHANTS, b"PAR1PAR1")),
    Case("merchants: a CSV file under the name", "E_INGRESS_SCHEMA", (MERCHANTS,), overlay=whole(MERCHANTS, "merchant_id,mcc,channel,home_country_iso\n1,5411,card_present,GB\n")),
    Case("merchants: cut off at the end", "E_INGRESS_SCHEMA", (MERCHANTS,), overlay=binary(MERCHANTS, lambda data: data[:-30])),
    Case("merchants: cut off at the start", "E_INGRESS_SCHEMA", (MERCHANTS,), overlay=binary(MERCHANTS, lambda data: data[200:])),
    Case("merchants: row groups cut off, footer left", "E_INGRESS_SCHEMA", (MERCHANTS,), overlay=binary(MERCHANTS, without_rows)),
    Case("merchants: half of the row groups cut off", "E_INGRESS_SCHEMA", (MERCHANTS,), overlay=binary(MERCHANTS, half_of_the_rows)),
    Case("merchants: row groups of zeros", "E_INGRESS_SCHEMA", (MERCHANTS,), overlay=binary(MERCHANTS, zeroed_rows)),
    Case("merchants: a footer of 2 GiB", "E_INGRESS_SCHEMA", (MERCHANTS,), overlay=binary(MERCHANTS, with_footer_length(2**31 - 1))),
    Case("merchants: a footer of no byte", "E_INGRESS_SCHEMA", (MERCHANTS,), overlay=binary(MERCHANTS, with_footer_length(0))),
    Case("merchants: a footer that counts one row too many", "E_INGRESS_SCHEMA", (MERCHANTS,), overlay=binary(MERCHANTS, miscounted)),
    Case("merchants: a row group that counts one row too many", "E_INGRESS_SCHEMA", (MERCHANTS,), overlay=binary(MERCHANTS, lambda data: miscounted(data, in_group=True))),
    Case("merchants: the footer of another file", "E_INGRESS_SCHEMA", (MERCHANTS,), overlay=footer_of_another),
    Case("merchants: encrypted, footer too", "E_INGRESS_SCHEMA", (MERCHANTS,), overlay=encrypted(False)),
    Case("merchants: encrypted columns", "E_INGRESS_SCHEMA", (MERCHANTS,), overlay=encrypted(True)),
    Case("countries: an empty file", "E_ISO_TABLE_SCHEMA", ("iso3166",), overlay=whole(ISO, b"")),
    Case("gdp: an empty file", "E_GDP_SCHEMA", ("gdp",), overlay=whole(GDP, b"")),
    Case("buckets: an empty file", "E_BUCKET_SCHEMA", ("gdp_bucket_map",), overlay=whole(BUCKETS, b"")),
    Case("features: an empty file", "ERR_S4_POLICY_INVALID", (FEATURES,), overlay=whole(FEATURES, b"")),
    Case("merchants: not in the pack", "E_PACK_MISSING", (MERCHANTS,), 2, damage=missing(MERCHANTS)),
    Case("countries: not in the pack", "E_PACK_MISSING", (ISO,), 2, damage=missing(ISO)),
]


# ---- merchants ----------------------------------------------------------------------------------------------------------


def one_row(**values) -> Overlay:
    return table(MERCHANTS, lambda content: content.slice(0, 1) if not values else pa.Table.from_pylist([content.slice(0, 1).to_pylist()[0] | values], content.schema))


def with_ids(*ids: int) -> Overlay:
    """The first merchants under these ids, in this order."""
    return table(MERCHANTS, lambda content: content.slice(0, len(ids)).set_column(0, content.schema.field(0), pa.array(ids, pa.int64())))


def float_ids(*first: float) -> Overlay:
    return table(MERCHANTS, lambda content: content.set_column(0, "merchant_id", pa.array([*first, *map(float, range(1, len(content) + 1 - len(first)))])))


def nullable(column: str, row: int) -> Overlay:
    """A null, in a column whose type then allows one."""
    def change(content):
        values = content[column].to_pylist()
        values[row] = None
        return content.set_column(content.column_names.index(column), pa.field(column, content.schema.field(column).type, True), pa.array(values, content.schema.field(column).type))
    return table(MERCHANTS, change)


def wrong_type(column: str, kind: pa.DataType, **value) -> Case:
    return Case(f"merchants: {column} as {kind}", "E_INGRESS_SCHEMA", (column,), overlay=retyped(MERCHANTS, column, kind, **value))


ROWS = [
    Case("merchants: no row", "E_INGRESS_EMPTY", ("merchant",), overlay=table(MERCHANTS, lambda content: content.slice(0, 0))),
    good("merchants: one row", one_row()),
    good("merchants: two rows, the largest id first", with_ids(LARGEST, 1)),
    good("merchants: ids beside 2^53", with_ids(2**53 - 1, 2**53, 2**53 + 1)),
    Case("merchants: an id of zero", "E_INGRESS_SCHEMA", ("row 3", "merchant_id", "0"), overlay=cell(MERCHANTS, 3, "merchant_id", 0)),
    Case("merchants: a negative id", "E_INGRESS_SCHEMA", ("row 3", "merchant_id", "-1"), overlay=cell(MERCHANTS, 3, "merchant_id", -1)),
    Case("merchants: the smallest int64", "E_INGRESS_SCHEMA", ("row 3", str(-(2**63))), overlay=cell(MERCHANTS, 3, "merchant_id", -(2**63))),
    Case("merchants: an id twice", "E_INGRESS_PK_DUP", ("row 1", "merchant_id", "stands twice"), overlay=with_ids(7, 7)),
    Case("merchants: ids beside 2^53, one twice", "E_INGRESS_PK_DUP", ("row 2", str(2**53 + 1)), overlay=with_ids(2**53, 2**53 + 1, 2**53 + 1)),
    wrong_type("merchant_id", pa.uint64(), row=3, value=2**63),
    Case("merchants: merchant_id as double", "E_INGRESS_SCHEMA", ("merchant_id", "double"), overlay=float_ids()),
    Case("merchants: merchant_id as double with NaN", "E_INGRESS_SCHEMA", ("merchant_id", "double"), overlay=float_ids(math.nan)),
    wrong_type("merchant_id", pa.string()),
    Case("merchants: merchant_id as decimal", "E_INGRESS_SCHEMA", ("merchant_id", "decimal"), overlay=retyped(MERCHANTS, "merchant_id", pa.decimal128(38, 0))),
    wrong_type("mcc", pa.string()),
    wrong_type("mcc", pa.int64()),
    wrong_type("mcc", pa.float32()),
    Case("merchants: channel as binary", "E_INGRESS_SCHEMA", ("channel", "binary"), overlay=table(MERCHANTS, lambda c: c.set_column(2, "channel", c["channel"].cast(pa.binary())))),
    Case("merchants: channel as a list", "E_INGRESS_SCHEMA", ("channel",), overlay=table(MERCHANTS, lambda c: c.set_column(2, "channel", pa.array([[x] for x in c["channel"].to_pylist()])))),
    Case("merchants: a null id", "E_INGRESS_SCHEMA", ("merchant_id",), overlay=nullable("merchant_id", 3)),
    Case("merchants: a null MCC", "E_INGRESS_SCHEMA", ("mcc",), overlay=nullable("mcc", 3)),
    Case("merchants: a null home country", "E_INGRESS_SCHEMA", ("home_country_iso",), overlay=nullable("home_country_iso", 3)),
    Case("merchants: a column missing", "E_INGRESS_SCHEMA", ("channel",), overlay=dropped(MERCHANTS, "channel")),
    good("merchants: a column too many", table(MERCHANTS, lambda c: c.append_column("colour", pa.array(["red"] * len(c))))),
    Case("merchants: a column twice", "E_INGRESS_SCHEMA", ("mcc",), overlay=table(MERCHANTS, lambda c: c.append_column("mcc", c["mcc"]))),
    Case("merchants: a column in capitals", "E_INGRESS_SCHEMA", ("mcc",), overlay=table(MERCHANTS, lambda c: c.rename_columns(["merchant_id", "MCC", "channel", "home_country_iso"]))),
    Case("merchants: an MCC of five digits", "E_MCC_OUT_OF_DOMAIN", ("row 3", "mcc", "10000"), overlay=cell(MERCHANTS, 3, "mcc", 10_000)),
    Case("merchants: a negative MCC", "E_MCC_OUT_OF_DOMAIN", ("row 3", "mcc", "-1"), overlay=cell(MERCHANTS, 3, "mcc", -1)),
    Case("merchants: an MCC without coefficient", "E_DSGN_UNKNOWN_MCC", ("MCC 0001",), overlay=cell(MERCHANTS, 3, "mcc", 1)),
    Case("merchants: a channel by its short name", "E_CHANNEL_VALUE", ("row 3", "'CP'"), overlay=cell(MERCHANTS, 3, "channel", "CP")),
    Case("merchants: a channel with a blank", "E_CHANNEL_VALUE", ("row 3", "'card_present '"), overlay=cell(MERCHANTS, 3, "channel", "card_present ")),
    Case("merchants: a channel of a megabyte", "E_CHANNEL_VALUE", ("row 3",), overlay=cell(MERCHANTS, 3, "channel", "x" * 1_000_000)),
    Case("merchants: a home country that does not exist", "E_FK_HOME_ISO", ("row 3", "'QQ'"), overlay=cell(MERCHANTS, 3, "home_country_iso", "QQ")),
    Case("merchants: a home country in small letters", "E_FK_HOME_ISO", ("row 3", "'gb'"), overlay=cell(MERCHANTS, 3, "home_country_iso", "gb")),
    Case("merchants: a home country in Cyrillic letters", "E_FK_HOME_ISO", ("row 3",), overlay=cell(MERCHANTS, 3, "home_country_iso", "\u0421\u0410")),
    Case("merchants: a home country with a control character", "E_FK_HOME_ISO", ("row 3",), overlay=cell(MERCHANTS, 3, "home_country_iso", "G\x1b[31mB\n")),
    Case("merchants: a home country without GDP", "E_GDP_MISSING", ("AQ",), overlay=cell(MERCHANTS, 3, "home_country_iso", "AQ")),
]


# ---- reference tables ---------------------------------------------------------------------------------------------------


def twice(name: str) -> Overlay:
    return table(name, lambda content: pa.concat_tables([content, content.slice(0, 1)]))


REFERENCE = [
    Case("countries: no row", "E_ISO_TABLE_SCHEMA", ("iso3166", "no rows"), overlay=table(ISO, lambda content: content.slice(0, 0))),
    Case("countries: a code in small letters", "E_ISO_TABLE_SCHEMA", ("row 0", "country_iso", "'ad'"), overlay=cell(ISO, 0, "country_iso", "ad")),
    Case("countries: a code with a line end", "E_ISO_TABLE_SCHEMA", ("row 0", "country_iso"), overlay=cell(ISO, 0, "country_iso", "AD\n")),
    Case("countries: a code of three letters", "E_ISO_TABLE_SCHEMA", ("row 0", "'AND'"), overlay=cell(ISO, 0, "country_iso", "AND")),
    Case("countries: a code twice", "E_ISO_TABLE_SCHEMA", ("'AD'", "stands twice"), overlay=twice(ISO)),
    Case("countries: a numeric code as text", "E_ISO_TABLE_SCHEMA", ("numeric_code",), overlay=retyped(ISO, "numeric_code", pa.string())),
    Case("gdp: no row", "E_GDP_SCHEMA", ("world_bank", "no rows"), overlay=table(GDP, lambda content: content.slice(0, 0))),
    Case("gdp: NaN", "E_GDP_NONPOS", ("row 0", "nan"), overlay=cell(GDP, 0, "gdp_pc_usd_2015", math.nan)),
    Case("gdp: infinite", "E_GDP_NONPOS", ("row 0", "inf"), overlay=cell(GDP, 0, "gdp_pc_usd_2015", math.inf)),
    Case("gdp: minus infinite", "E_GDP_NONPOS", ("row 0", "-inf"), overlay=cell(GDP, 0, "gdp_pc_usd_2015", -math.inf)),
    Case("gdp: zero", "E_GDP_NONPOS", ("row 0", "0.0"), overlay=cell(GDP, 0, "gdp_pc_usd_2015", 0.0)),
    Case("gdp: minus zero", "E_GDP_NONPOS", ("row 0", "-0.0"), overlay=cell(GDP, 0, "gdp_pc_usd_2015", -0.0)),
    good("gdp: the smallest subnormal", cell(GDP, 0, "gdp_pc_usd_2015", 5e-324)),
    Case("gdp: negative", "E_GDP_NONPOS", ("row 0", "-1.0"), overlay=cell(GDP, 0, "gdp_pc_usd_2015", -1.0)),
    Case("gdp: as integer", "E_GDP_SCHEMA", ("gdp_pc_usd_2015",), overlay=table(GDP, lambda c: c.set_column(2, "gdp_pc_usd_2015", c["gdp_pc_usd_2015"].cast(pa.int64(), safe=False)))),
    Case("gdp: as float32", "E_GDP_SCHEMA", ("gdp_pc_usd_2015",), overlay=retyped(GDP, "gdp_pc_usd_2015", pa.float32())),
    Case("gdp: an unknown country", "E_REF_ISO_FK", ("row 0", "'QQ'"), overlay=cell(GDP, 0, "country_iso", "QQ")),
    Case("gdp: a country twice", "E_GDP_DUP", ("'AE'", "2019"), overlay=twice(GDP)),
    Case("gdp: the countries under its name", "E_GDP_SCHEMA", ("observation_year",), overlay=lambda pack: {GDP: pack_file(pack, ISO).read_bytes()}),
    Case("buckets: class 6", "E_BUCKET_RANGE", ("row 0", "6"), overlay=cell(BUCKETS, 0, "bucket_id", 6)),
    Case("buckets: class 0", "E_BUCKET_RANGE", ("row 0", "0"), overlay=cell(BUCKETS, 0, "bucket_id", 0)),
    Case("buckets: class 2^31-1", "E_BUCKET_RANGE", ("row 0", str(2**31 - 1)), overlay=cell(BUCKETS, 0, "bucket_id", 2**31 - 1)),
    Case("buckets: another method", "E_BUCKET_SCHEMA", ("row 0", "method", "'quantile'"), overlay=cell(BUCKETS, 0, "method", "quantile")),
    Case("buckets: four classes", "E_BUCKET_SCHEMA", ("row 0", "k 4"), overlay=cell(BUCKETS, 0, "k", 4)),
    Case("buckets: a country twice", "E_BUCKET_DUP", ("'AE'",), overlay=twice(BUCKETS)),
    Case("buckets: an unknown country", "E_REF_ISO_FK", ("row 0", "'QQ'"), overlay=cell(BUCKETS, 0, "country_iso", "QQ")),
    Case("buckets: no country of a merchant", "E_BUCKET_MISSING", ("bucket",), overlay=table(BUCKETS, lambda content: content.slice(0, 1))),
]


# ---- features of S4 -----------------------------------------------------------------------------------------------------


def features(values: list | None = None, column: str = "feature_value", kind: pa.DataType = pa.float64(), id_kind: pa.DataType = pa.int64(), first: int = 0, repeat: bool = False) -> Overlay:
    """A feature file for the merchants of the pack: these values first, 0.5 for the rest."""
    def overlay(pack):
        ids = sorted(pq.read_table(pack_file(pack, MERCHANTS))["merchant_id"].to_pylist())[first:]
        given = (values or []) + [0.5] * (len(ids) - len(values or []))
        if repeat:
            ids, given = [*ids, ids[0]], [*given, 0.5]
        return {FEATURES: parquet(pa.table({"merchant_id": pa.array(list(map(float, range(len(ids)))) if id_kind == pa.float64() else ids, id_kind), column: pa.array(given, kind)}, pa.schema([pa.field("merchant_id", id_kind, False), pa.field(column, kind)])))}
    return overlay


FEATURE_FILES = [
    good("features: a null, zero, one and minus zero", features([None, 0.0, 1.0, -0.0])),
    good("features: the smallest subnormal", features([5e-324])),
    Case("features: NaN", "ERR_S4_FEATURE_DOMAIN", ("nan", "merchant"), overlay=features([0.1, math.nan])),
    Case("features: infinite", "ERR_S4_FEATURE_DOMAIN", ("inf", "merchant"), overlay=features([math.inf])),
    Case("features: above one", "ERR_S4_FEATURE_DOMAIN", ("1.0000000000000002", "merchant"), overlay=features([1.0000000000000002])),
    Case("features: negative", "ERR_S4_FEATURE_DOMAIN", ("-5e-324", "merchant"), overlay=features([-5e-324])),
    Case("features: a merchant twice", "ERR_S4_POLICY_INVALID", (FEATURES, "merchant_id", "stands twice"), overlay=features(repeat=True)),
    Case("features: another column", "ERR_S4_POLICY_INVALID", (FEATURES, "feature_value"), overlay=features(column="value")),
    Case("features: as text", "ERR_S4_POLICY_INVALID", (FEATURES, "feature_value"), overlay=features(["0.5"] * 40, kind=pa.string())),
    Case("features: ids as double", "ERR_S4_POLICY_INVALID", (FEATURES, "merchant_id"), overlay=features(id_kind=pa.float64())),
]

CASES = FILES + ROWS + REFERENCE + FEATURE_FILES
