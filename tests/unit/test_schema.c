/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Typed tables: every kind from text and from JSON, QEMU's sentences (those of qemu-storage-daemon
 * 7.2 for the same mistakes), the way back, and every allocation failing.
 */
#include "tests/unit/support.h"

#include <stdio.h>
#include <string.h>

#include "control/json.h"
#include "kernel/fault.h"
#include "kernel/schema.h"

/* ---- A table with everything ----------------------------------------------------------------- */

struct cat_opts {
    const char *sound;
    int64_t lives;
};
static const struct field cat_fields[] = {
    FIELD_REQ(struct cat_opts, sound, "sound", &type_str, "What it says"),
    FIELD_DEF(struct cat_opts, lives, "lives", &type_uint8, "9", "How many"),
    {0},
};
static const struct type cat_type = TYPE_STRUCT_OF("Cat", struct cat_opts, cat_fields);

extern const struct type ref_type, ref_null_type;

struct box_opts {
    struct schema_ref content, lid;
};
static const struct field box_fields[] = {
    FIELD_REQ(struct box_opts, content, "content", &ref_type, "What is inside"),
    FIELD_OPTS(struct box_opts, lid, "lid", &ref_null_type, "What is on top"),
    {0},
};
static const struct type box_type = TYPE_STRUCT_OF("Box", struct box_opts, box_fields);

struct base {
    const char *driver;
    const char *name;
    bool soft;
};
static const struct field base_fields[] = {
    FIELD_REQ(struct base, driver, "driver", &type_str, "Which thing"),
    FIELD_OPTS(struct base, name, "name", &type_str, "Its name"),
    FIELD_DEF(struct base, soft, "soft", &type_bool, "on", "To the touch"),
    {0},
};
static const struct type *thing_branch(const char *tag)
{
    return !strcmp(tag, "cat")   ? &cat_type
           : !strcmp(tag, "box") ? &box_type
           : !strcmp(tag, "air") ? &type_empty
                                 : NULL;
}
static const struct type thing_type = {.kind = TYPE_UNION,
                                       .name = "Thing",
                                       .size = sizeof(struct base),
                                       .fields = base_fields,
                                       .tag = "driver",
                                       .branch = thing_branch};
const struct type ref_type = {.kind = TYPE_REF, .name = "ThingRef", .element = &thing_type};
const struct type ref_null_type = {
    .kind = TYPE_REF, .name = "ThingRefOrNull", .element = &thing_type, .null_ok = true};

static const char *const colours[] = {"red", "green", "blue", NULL};
static const struct type colour_type = TYPE_ENUM_OF("Colour", colours);
static const struct type colours_type = TYPE_ARRAY_OF(&colour_type);
static const struct type percent_type = {.kind = TYPE_INT, .min = 1, .max = 100};
static const struct type below_type = {.kind = TYPE_INT, .min = -5};
static const struct type sector_type = {
    .kind = TYPE_SIZE, .name = "a size of a sector", .min = 512, .max = 4096};

struct point {
    int64_t x, y;
};
static const struct field point_fields[] = {
    FIELD_REQ(struct point, x, "x", &type_int, "Right"),
    FIELD_DEF(struct point, y, "y", &type_int, "-3", "Up"),
    {0},
};
static const struct type point_type = TYPE_STRUCT_OF("Point", struct point, point_fields);

struct all {
    bool b;
    bool has_i, has_at, has_size, has_percent, has_below, has_sector, has_port;
    int64_t i, percent, below, port;
    uint64_t size, sector;
    const char *s;
    int colour;
    struct schema_array list, colours;
    struct point at;
    const struct value *any;
    struct schema_union thing;
    struct schema_ref ref;
};
static const struct field all_fields[] = {
    FIELD_DEF(struct all, b, "b", &type_bool, "off", ""),
    FIELD_OPT(struct all, i, "i", &type_int, ""),
    FIELD_OPT(struct all, size, "size", &type_size, ""),
    FIELD_OPT(struct all, percent, "percent", &percent_type, ""),
    FIELD_OPT(struct all, below, "below", &below_type, ""),
    FIELD_OPT(struct all, sector, "sector", &sector_type, ""),
    FIELD_OPT(struct all, port, "port", &type_uint16, ""),
    FIELD_OPTS(struct all, s, "s", &type_str, ""),
    FIELD_DEF(struct all, colour, "colour", &colour_type, "green", ""),
    FIELD_OPTS(struct all, list, "list", &type_str_array, ""),
    FIELD_OPTS(struct all, colours, "colours", &colours_type, ""),
    FIELD_OPT(struct all, at, "at", &point_type, ""),
    FIELD_OPTS(struct all, any, "any", &type_any, ""),
    FIELD_OPTS(struct all, thing, "thing", &thing_type, ""),
    FIELD_OPTS(struct all, ref, "ref", &ref_type, ""),
    {0},
};
static const struct type all_type = TYPE_STRUCT_OF("All", struct all, all_fields);

/* ---- Helpers --------------------------------------------------------------------------------- */

static struct value *parse(const char *text, struct error *err)
{
    return *text == '{' ? json_parse(text, strlen(text), err) : schema_parse_keyval(text, "b", err);
}

/* Decodes, encodes again and prints: the JSON, or "!" and the sentence. */
static const char *through(const struct type *t, const char *text)
{
    static char out[2048];
    struct error err = {0};
    struct arena arena;
    arena_init(&arena);
    struct value *v = parse(text, &err), *back = NULL;
    void *opts = arena_alloc(&arena, schema_size(t));
    unsigned flags = SCHEMA_DEEP | (*text == '{' ? 0 : SCHEMA_TEXT);
    if (v && !schema_decode(t, v, flags, opts, &arena, &err))
        back = schema_encode(t, opts);
    assert_int_equal(!back, err.set);
    size_t len;
    char *printed = back ? json_print(back, false, &len) : NULL;
    snprintf(out, sizeof(out), "%s%s", back ? "" : "!", back ? printed : err.msg);
    sr_free(printed);
    value_free(back);
    value_free(v);
    arena_free(&arena);
    return out;
}

struct pair {
    const char *in, *out;
};
static void check(const struct type *t, const struct pair *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const char *got = through(t, p[i].in);
        if (strcmp(got, p[i].out))
            fail_msg("%s:\n  got      %s\n  expected %s", p[i].in, got, p[i].out);
    }
}
#define REST "\"colour\": \"green\"}"

/* ---- Tests ----------------------------------------------------------------------------------- */

static void test_scalars(void **state)
{
    (void)state;
    static const struct pair cases[] = {
        {"", "{\"b\": false, " REST},
        {"b=on", "{\"b\": true, " REST},
        {"yes", "{\"b\": true, " REST}, /* the implied key */
        {"b=n", "{\"b\": false, " REST},
        {"{\"b\": true}", "{\"b\": true, " REST},
        {"b=maybe", "!Parameter 'b' expects 'on' or 'off'"},
        {"{\"b\": \"on\"}", "!Invalid parameter type for 'b', expected: boolean"},
        {"{\"b\": 1}", "!Invalid parameter type for 'b', expected: boolean"},
        {"i=-12", "{\"b\": false, \"i\": -12, " REST},
        {"i=0x1F", "{\"b\": false, \"i\": 31, " REST},
        {"i=-9223372036854775808", "{\"b\": false, \"i\": -9223372036854775808, " REST},
        {"i=9223372036854775807", "{\"b\": false, \"i\": 9223372036854775807, " REST},
        {"i=9223372036854775808", "!Parameter 'i' expects integer"},
        {"i=99999999999999999999", "!Parameter 'i' expects integer"},
        {"i=", "!Parameter 'i' expects integer"},
        {"i= 1", "!Parameter 'i' expects integer"},
        {"i=1x", "!Parameter 'i' expects integer"},
        {"i=0x", "!Parameter 'i' expects integer"},
        {"i=--1", "!Parameter 'i' expects integer"},
        {"i.x=1", "!Parameters 'i.*' are unexpected"},
        {"{\"i\": 5}", "{\"b\": false, \"i\": 5, " REST},
        {"{\"i\": \"5\"}", "!Invalid parameter type for 'i', expected: integer"},
        {"{\"i\": 1.5}", "!Invalid parameter type for 'i', expected: integer"},
        {"{\"i\": 9223372036854775808}", "!Invalid parameter type for 'i', expected: integer"},
        {"s=a,,b=c", "{\"b\": false, \"s\": \"a,b=c\", " REST},
        {"s=", "{\"b\": false, \"s\": \"\", " REST},
        {"{\"s\": 5}", "!Invalid parameter type for 's', expected: string"},
        {"{\"s\": null}", "!Invalid parameter type for 's', expected: string"},
        {"colour=blue", "{\"b\": false, \"colour\": \"blue\"}"},
        {"colour=pink", "!Parameter 'colour' does not accept value 'pink'"},
        {"{\"colour\": 1}", "!Invalid parameter type for 'colour', expected: string"},
    };
    check(&all_type, cases, ARRAY_LEN(cases));
}

static void test_ranges(void **state)
{
    (void)state;
    static const struct pair cases[] = {
        {"port=65535", "{\"b\": false, \"port\": 65535, " REST},
        {"port=65536", "!Parameter 'port' expects uint16_t"},
        {"port=-1", "!Parameter 'port' expects uint16_t"},
        {"{\"port\": 65536}", "!Parameter 'port' expects uint16_t"},
        {"percent=1", "{\"b\": false, \"percent\": 1, " REST},
        {"percent=100", "{\"b\": false, \"percent\": 100, " REST},
        {"percent=0", "!Parameter 'percent' expects a value between 1 and 100"},
        {"percent=101", "!Parameter 'percent' expects a value between 1 and 100"},
        {"below=-5", "{\"b\": false, \"below\": -5, " REST},
        {"below=0", "{\"b\": false, \"below\": 0, " REST},
        {"below=1", "!Parameter 'below' expects a value between -5 and 0"},
        {"sector=512", "{\"b\": false, \"sector\": 512, " REST},
        {"sector=4K", "{\"b\": false, \"sector\": 4096, " REST},
        {"sector=511", "!Parameter 'sector' expects a size of a sector"},
        {"sector=4097", "!Parameter 'sector' expects a size of a sector"},
    };
    check(&all_type, cases, ARRAY_LEN(cases));
}

static void test_sizes(void **state)
{
    (void)state;
    static const struct pair cases[] = {
        {"size=0", "{\"b\": false, \"size\": 0, " REST},
        {"size=512b", "{\"b\": false, \"size\": 512, " REST},
        {"size=64k", "{\"b\": false, \"size\": 65536, " REST},
        {"size=1.5G", "{\"b\": false, \"size\": 1610612736, " REST},
        {"size=0.25k", "{\"b\": false, \"size\": 256, " REST},
        {"size=2T", "{\"b\": false, \"size\": 2199023255552, " REST},
        {"size=0x200", "{\"b\": false, \"size\": 512, " REST},
        {"size=18446744073709551615", "{\"b\": false, \"size\": 18446744073709551615, " REST},
        {"size=15.9E", "{\"b\": false, \"size\": 18331451923248866918, " REST},
        {"size=16E", "!Parameter 'size' expects a size value"},
        {"size=-1", "!Parameter 'size' expects a size value"},
        {"size=1.5", "!Parameter 'size' expects a size value"},
        {"size=1.k", "!Parameter 'size' expects a size value"},
        {"size=1Z", "!Parameter 'size' expects a size value"},
        {"size=1kk", "!Parameter 'size' expects a size value"},
        {"size=k", "!Parameter 'size' expects a size value"},
        {"{\"size\": 18446744073709551615}",
         "{\"b\": false, \"size\": 18446744073709551615, " REST},
        {"{\"size\": -1}", "!Parameter 'size' expects uint64"},
        {"{\"size\": \"1k\"}", "!Parameter 'size' expects uint64"},
    };
    check(&all_type, cases, ARRAY_LEN(cases));
}

static void test_compounds(void **state)
{
    (void)state;
    static const struct pair cases[] = {
        {"at.x=1", "{\"b\": false, \"colour\": \"green\", \"at\": {\"x\": 1, \"y\": -3}}"},
        {"{\"at\": {\"x\": 1, \"y\": 2}}",
         "{\"b\": false, \"colour\": \"green\", \"at\": {\"x\": 1, \"y\": 2}}"},
        {"at.y=1", "!Parameter 'at.x' is missing"},
        {"at.x=1,at.z=2", "!Parameter 'at.z' is unexpected"},
        {"at=5", "!Invalid parameter type for 'at', expected: object"},
        {"{\"at\": 5}", "!Invalid parameter type for 'at', expected: object"},
        {"list.0=a,list.1=b", "{\"b\": false, \"colour\": \"green\", \"list\": [\"a\", \"b\"]}"},
        {"list.1=b,list.0=a", "{\"b\": false, \"colour\": \"green\", \"list\": [\"a\", \"b\"]}"},
        {"list.0=a,list.2=b", "!Parameter 'list.1' missing"},
        {"list.0=a,list.x=b", "!Parameters 'list.*' used inconsistently"},
        {"list=a", "!Invalid parameter type for 'list', expected: array"},
        {"{\"list\": []}", "{\"b\": false, \"colour\": \"green\", \"list\": []}"},
        {"{\"list\": [\"a\", 1]}", "!Invalid parameter type for 'list[1]', expected: string"},
        {"colours.0=red,colours.1=x", "!Parameter 'colours.1' does not accept value 'x'"},
        {"{\"any\": {\"x\": [1]}}", "{\"b\": false, \"colour\": \"green\", \"any\": {\"x\": [1]}}"},
        {"nosuch=1", "!Parameter 'nosuch' is unexpected"},
        {"{\"nosuch\": 1}", "!Parameter 'nosuch' is unexpected"},
    };
    check(&all_type, cases, ARRAY_LEN(cases));
}

static void test_unions(void **state)
{
    (void)state;
    static const struct pair cases[] = {
        {"driver=cat,sound=miau",
         "{\"driver\": \"cat\", \"soft\": true, \"sound\": \"miau\", \"lives\": 9}"},
        {"driver=air,name=x", "{\"driver\": \"air\", \"name\": \"x\", \"soft\": true}"},
        {"driver=cat", "!Parameter 'sound' is missing"},
        {"driver=cat,sound=x,lives=256", "!Parameter 'lives' expects uint8_t"},
        {"driver=dog,soft=maybe", "!Parameter 'driver' does not accept value 'dog'"},
        {"name=x", "!Parameter 'driver' is missing"},
        {"{\"driver\": 5}", "!Invalid parameter type for 'driver', expected: string"},
        {"driver=air,sound=x", "!Parameter 'sound' is unexpected"},
        {"driver=box,content=a", "{\"driver\": \"box\", \"soft\": true, \"content\": \"a\"}"},
        {"driver=box,content.driver=air",
         "{\"driver\": \"box\", \"soft\": true, \"content\": {\"driver\": \"air\"}}"},
        {"driver=box,content.driver=cat", "!Parameter 'content.sound' is missing"},
        {"driver=box,content.driver=cat,content.sound=x,content.foo=1",
         "!Parameter 'content.foo' is unexpected"},
        {"driver=box,content.driver=box,content.content.driver=dog",
         "!Parameter 'driver' does not accept value 'dog'"},
        {"{\"driver\": \"box\", \"content\": {\"driver\": \"box\", \"content\": 7}}",
         "!Invalid parameter type for 'content.content', expected: ThingRef"},
        {"driver=box,content=a,content.driver=air", "!Parameters 'content.*' used inconsistently"},
        {"driver=box,content.driver=air,content=a", "!Parameters 'content.*' used inconsistently"},
        {"{\"driver\": \"box\", \"content\": null}",
         "!Invalid parameter type for 'content', expected: ThingRef"},
        {"{\"driver\": \"box\", \"content\": \"a\", \"lid\": null}",
         "{\"driver\": \"box\", \"soft\": true, \"content\": \"a\", \"lid\": null}"},
        {"driver=box,content=a,lid=",
         "{\"driver\": \"box\", \"soft\": true, \"content\": \"a\", \"lid\": null}"},
        {"{\"driver\": \"box\", \"content\": \"a\", \"lid\": true}",
         "!Invalid parameter type for 'lid', expected: ThingRefOrNull"},
    };
    check(&thing_type, cases, ARRAY_LEN(cases));
}

static void test_keyval(void **state)
{
    (void)state;
    static const struct pair cases[] = {
        {"s=1,s=2", "{\"b\": false, \"s\": \"2\", " REST},
        {"i=1,", "{\"b\": false, \"i\": 1, " REST},
        {"i=1,,", "!Parameter 'i' expects integer"},
        {"i=1,s", "!Expected '=' after parameter 's'"},
        {"=1", "!Invalid parameter ''"},
        {"i=1,=2", "!Invalid parameter ''"},
        {"i=1,,,=2", "!Invalid parameter ''"},
        {"a..b=1", "!Invalid parameter 'a..b'"},
        {"a.=1", "!Invalid parameter 'a.'"},
        {".a=1", "!Invalid parameter '.a'"},
        {"1a=1", "!Invalid parameter '1a'"},
        {"0=1", "!Invalid parameter '0'"},
        {"a.1b=1", "!Invalid parameter 'a.1b'"},
        {"a b=1", "!Invalid parameter 'a b'"},
        {"list.00=a", "!Parameter 'list.0' missing"},
    };
    check(&all_type, cases, ARRAY_LEN(cases));
    char key[200] = "";
    memset(key, 'k', 127);
    strcpy(key + 127, "=1");
    struct error err = {0};
    struct value *v = schema_parse_keyval(key, NULL, &err);
    assert_non_null(v);
    value_free(v);
    strcpy(key + 127, "k=1");
    assert_null(schema_parse_keyval(key, NULL, &err));
    assert_non_null(strstr(err.msg, "Invalid parameter 'kkk"));
}

/* The members as a driver sees them. */
static void test_members(void **state)
{
    (void)state;
    struct error err = {0};
    struct arena arena;
    struct all all;
    arena_init(&arena);
    struct value *v = schema_parse_keyval(
        "i=5,list.0=x,thing.driver=cat,thing.sound=m,ref.driver=air,colour=blue", NULL, &err);
    memset(&all, 0xa5, sizeof(all));
    assert_int_equal(schema_decode(&all_type, v, SCHEMA_TEXT, &all, &arena, &err), 0);
    assert_true(all.has_i && !all.has_at && !all.has_size);
    assert_int_equal(all.i, 5);
    assert_int_equal(all.colour, 2);
    assert_null(all.s);
    assert_int_equal(all.list.count, 1);
    assert_string_equal(((const char **)all.list.items)[0], "x");
    assert_string_equal(all.thing.tag, "cat");
    assert_true(all.thing.type == &cat_type);
    assert_int_equal(((const struct cat_opts *)all.thing.opts)->lives, 9);
    assert_true(all.ref.present && all.ref.text && !all.ref.name && !all.ref.is_null);
    assert_ptr_equal(all.ref.inl, value_get(v, "ref"));
    value_free(v);
    arena_free(&arena);
}

/* Without SCHEMA_DEEP an inline definition is whoever's opens it. */
static void test_shallow(void **state)
{
    (void)state;
    struct error err = {0};
    struct arena arena;
    struct schema_union u;
    struct value *v = schema_parse_keyval("driver=box,content.driver=nosuch", NULL, &err);
    arena_init(&arena);
    assert_int_equal(schema_decode(&thing_type, v, SCHEMA_TEXT, &u, &arena, &err), 0);
    assert_int_equal(schema_decode(&thing_type, v, SCHEMA_TEXT | SCHEMA_DEEP, &u, &arena, &err),
                     SR_EINVAL);
    value_free(v);
    arena_free(&arena);
}

/* One run with the nth allocation failing; false: none was left to fail. */
static bool fails_cleanly(const char *text, uint64_t n)
{
    struct error err = {0};
    struct arena arena;
    struct all all;
    arena_init(&arena);
    fault_arm(FAULT_ALLOC, n, false);
    struct value *v = parse(text, &err), *back = NULL;
    int rc = v ? schema_decode(&all_type, v, SCHEMA_DEEP | (*text == '{' ? 0 : SCHEMA_TEXT), &all,
                               &arena, &err)
               : SR_ENOMEM;
    if (!rc)
        back = schema_encode(&all_type, &all);
    bool fired = fault_fired(FAULT_ALLOC);
    fault_arm(FAULT_ALLOC, 0, false);
    assert_int_equal(!back, fired);
    if (rc)
        assert_string_equal(err.msg, sr_strerror(SR_ENOMEM));
    value_free(back);
    value_free(v);
    arena_free(&arena);
    return fired;
}

static void test_allocation(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "s=x,list.0=a,list.1=b,at.x=1,thing.driver=cat,thing.sound=m,ref.driver=air,colours.0=red",
        "{\"s\": \"x\", \"list\": [\"a\"], \"any\": {\"x\": [1, null]}, \"ref\": \"name\"}"};
    for (size_t i = 0; i < ARRAY_LEN(texts); i++)
        for (uint64_t n = 1; fails_cleanly(texts[i], n); n++)
            ;
}

static void test_arena(void **state)
{
    (void)state;
    struct arena a;
    arena_init(&a);
    for (size_t n = 0; n < 5000; n += 37) {
        unsigned char *p = arena_alloc(&a, n);
        assert_int_equal((uintptr_t)p % 16, 0);
        for (size_t i = 0; i < n; i++)
            assert_int_equal(p[i], 0);
        memset(p, 0xff, n);
    }
    assert_null(arena_alloc(&a, SIZE_MAX));
    assert_string_equal(arena_strdup(&a, "text"), "text");
    arena_free(&a);
    arena_free(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_scalars),    cmocka_unit_test(test_ranges),
        cmocka_unit_test(test_sizes),      cmocka_unit_test(test_compounds),
        cmocka_unit_test(test_unions),     cmocka_unit_test(test_keyval),
        cmocka_unit_test(test_members),    cmocka_unit_test(test_shallow),
        cmocka_unit_test(test_allocation), cmocka_unit_test(test_arena),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
