/* SPDX-License-Identifier: BSD-2-Clause */
/* JSON: what is taken, what is refused and how, in any pieces, and with every allocation failing. */
#include "tests/unit/support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control/json.h"
#include "kernel/fault.h"

/* Parses and prints again: `out` is the text, or "!" and the sentence. */
static const char *round_trip(const char *text, bool pretty)
{
    static char out[4096];
    struct error err = {0};
    struct value *v = json_parse(text, strlen(text), &err);
    size_t len = 0;
    char *printed = v ? json_print(v, pretty, &len) : NULL;
    assert_true(!v == err.set);
    if (printed)
        assert_int_equal(len, strlen(printed));
    snprintf(out, sizeof(out), "%s%s", v ? "" : "!", v ? printed : err.msg);
    sr_free(printed);
    value_free(v);
    return out;
}

static void test_values(void **state)
{
    (void)state;
    static const char *const same[] = {
        "null",
        "true",
        "[]",
        "{}",
        "0",
        "-1",
        "[1, 2, [3, {\"a\": null}]]",
        "{\"b\": 1, \"a\": {\"c\": [false]}}",
        "18446744073709551615",
        "-9223372036854775808",
        "9223372036854775807",
        "9007199254740993",
        "2.5",
        "1e+100",
        "\"\\uD836\\uDC00x\\uDB76\\uDF6D\\uDBFF\\uDFFF\"",
        "\"a\\\"\\\\\\b\\f\\n\\r\\t\\u0001\\u007F\\u00E9\\u20AC\\uD83D\\uDE00/\"",
    };
    for (size_t i = 0; i < ARRAY_LEN(same); i++)
        assert_string_equal(round_trip(same[i], false), same[i]);
    assert_string_equal(round_trip(" \t\r\n[ 1 ,2 ] \n", false), "[1, 2]");
    assert_string_equal(round_trip("\"\xc3\xa9\xf0\x9f\x98\x80\\u00e9\"", false),
                        "\"\\u00E9\\uD83D\\uDE00\\u00E9\"");
    assert_string_equal(round_trip("1.0", false), "1");
    assert_string_equal(round_trip("[-0, -0.0, 1E2, 1e-2]", false), "[0, 0, 100, 0.01]");
    assert_string_equal(round_trip("{\"a\":[1,{}],\"b\":[]}", true),
                        "{\n    \"a\": [\n        1,\n        {}\n    ],\n    \"b\": []\n}");
}

static void test_refused(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"{'a':1}", "JSON parse error, stray '''"},
        {"[NaN]", "JSON parse error, stray 'N'"},
        {"[Infinity]", "JSON parse error, stray 'I'"},
        {"[-Infinity]", "JSON parse error, stray '-I'"},
        {"[nan]", "JSON parse error, invalid keyword 'nan'"},
        {"[True]", "JSON parse error, stray 'T'"},
        {"nulls", "JSON parse error, invalid keyword 'nulls'"},
        {"[18446744073709551616]", "JSON parse error, integer out of range '18446744073709551616'"},
        {"[-9223372036854775809]", "JSON parse error, integer out of range '-9223372036854775809'"},
        {"[1e400]", "JSON parse error, number out of range"},
        {"[01]", "JSON parse error, stray '01'"},
        {"[1.]", "JSON parse error, stray '1.]'"},
        {"[.5]", "JSON parse error, stray '.'"},
        {"[+1]", "JSON parse error, stray '+'"},
        {"[1e]", "JSON parse error, stray '1e]'"},
        {"[0x10]", "JSON parse error, invalid keyword 'x'"},
        {"[1,]", "JSON parse error, expecting value"},
        {"[,1]", "JSON parse error, expecting value"},
        {"[1 2]", "JSON parse error, expected separator in list"},
        {"{\"a\":1,}", "JSON parse error, expecting value"},
        {"{\"a\" 1}", "JSON parse error, missing : in object pair"},
        {"{\"a\":1 \"b\":2}", "JSON parse error, expected separator in dict"},
        {"{1:2}", "JSON parse error, key is not a string in object"},
        {"{\"a\":1,\"a\":2}", "JSON parse error, duplicate key"},
        {"{\"a\":1,\"\\u0061\":2}", "JSON parse error, duplicate key"},
        {"[{\"a\":{\"b\":1,\"b\":2}}]", "JSON parse error, duplicate key"},
        {"{]", "JSON parse error, expecting value"},
        {"}", "JSON parse error, expecting value"},
        {":", "JSON parse error, expecting value"},
        {"{", "JSON parse error, premature EOI"},
        {"[1", "JSON parse error, premature EOI"},
        {"\"abc", "JSON parse error, stray '\"abc'"},
        {"\"\t\"", "JSON parse error, stray '\"\t'"},
        {"\"a\nb\"", "JSON parse error, stray '\"a\n'"},
        {"\"\\x\"", "JSON parse error, stray '\"\\x'"},
        {"\"\\u12g4\"", "JSON parse error, stray '\"\\u12g'"},
        {"\"\\ud800\"", "JSON parse error, \\ud800 is not a valid Unicode character"},
        {"\"\\ud800x\"", "JSON parse error, \\ud800 is not a valid Unicode character"},
        {"\"\\ud800\\n\"", "JSON parse error, \\ud800 is not a valid Unicode character"},
        {"\"\\ud800\\ud800\"", "JSON parse error, \\ud800 is not a valid Unicode character"},
        {"\"\\udc00\"", "JSON parse error, \\udc00 is not a valid Unicode character"},
        {"\"\\u0000\"", "JSON parse error, \\u0000 is not a valid Unicode character"},
        {"\"\xff\"", "JSON parse error, stray '\"\xff'"},
        {"\"\xc0\x80\"", "JSON parse error, stray '\"\xc0'"},
        {"\"\xed\xa0\x80\"", "JSON parse error, stray '\"\xed\xa0'"},
        {"\"\xf4\x90\x80\x80\"", "JSON parse error, stray '\"\xf4\x90'"},
        {"\"\xc3\"", "JSON parse error, stray '\"\xc3\"'"},
        {"/* */ 1", "JSON parse error, stray '/'"},
        {"", "Expecting a JSON value"},
        {"  ", "Expecting a JSON value"},
        {"{} {}", "Expecting at most one JSON value"},
        {"{}x", "Expecting at most one JSON value"},
        {"1 2", "Expecting at most one JSON value"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        const char *got = round_trip(cases[i][0], false);
        if (*got != '!' || strcmp(got + 1, cases[i][1]))
            fail_msg("%s: %s", cases[i][0], got);
    }
}

/* A document of n bytes, all but the quotes being x. */
static char *long_string(size_t n)
{
    char *s = malloc(n + 1);
    memset(s, 'x', n);
    s[0] = s[n - 1] = '"';
    s[n] = 0;
    return s;
}

static void expect_limit(const char *text, const char *sentence)
{
    struct error err = {0};
    struct value *v = json_parse(text, strlen(text), &err);
    if (sentence)
        assert_string_equal(err.msg, sentence);
    assert_int_equal(!v, !!sentence);
    value_free(v);
}

static char *repeated(const char *first, const char *piece, const char *last, size_t n)
{
    char *s = malloc(n * strlen(piece) + strlen(first) + strlen(last) + 1), *p = s;
    p += sprintf(p, "%s", first);
    while (n--)
        p += sprintf(p, "%s", piece);
    sprintf(p, "%s", last);
    return s;
}

static void test_limits(void **state)
{
    (void)state;
    char *s = long_string(JSON_MAX_BYTES);
    expect_limit(s, NULL);
    free(s);
    s = long_string(JSON_MAX_BYTES + 1);
    expect_limit(s, "JSON token size limit exceeded");
    free(s);
    for (int over = 0; over < 2; over++) {
        char open[80] = "", close[80] = "";
        memset(open, '[', JSON_MAX_DEPTH + (size_t)over);
        memset(close, ']', JSON_MAX_DEPTH + (size_t)over);
        s = repeated(open, "1", close, 1);
        expect_limit(s, over ? "JSON nesting depth limit exceeded" : NULL);
        free(s);
    }
    s = repeated("[0", ",0", "]", JSON_MAX_TOKENS / 2 - 2);
    expect_limit(s, NULL);
    free(s);
    s = repeated("[0", ",0", "]", JSON_MAX_TOKENS / 2 - 1);
    expect_limit(s, "JSON token count limit exceeded");
    free(s);
    s = malloc(20 * (JSON_MAX_MEMBERS + 3));
    for (unsigned members = JSON_MAX_MEMBERS; members <= JSON_MAX_MEMBERS + 1; members++) {
        char *p = s;
        for (unsigned i = 0; i < members; i++)
            p += sprintf(p, "%s\"k%u\":%u", i ? "," : "{", i, i);
        sprintf(p, "}");
        expect_limit(s, members > JSON_MAX_MEMBERS ? "JSON object member limit exceeded" : NULL);
    }
    free(s);
}

/* ---- Streams --------------------------------------------------------------------------------- */

/* Every document or error that `bytes` give when they arrive in pieces of `piece`, one per line. */
static const char *stream(const char *bytes, size_t n, size_t piece)
{
    static char out[8192];
    struct json_lexer l;
    size_t len = 0;
    json_lexer_init(&l);
    out[0] = 0;
    for (size_t at = 0; at < n;) {
        struct value *v;
        struct error err = {0};
        size_t here = MIN(piece - at % piece, n - at), plen;
        size_t used = json_feed(&l, bytes + at, here, &v, &err);
        assert_true(used <= here);
        assert_true(used == here || v || err.set);
        at += used;
        char *text = v ? json_print(v, false, &plen) : NULL;
        if (v || err.set)
            len += (size_t)snprintf(out + len, sizeof(out) - len, "%s\n", v ? text : err.msg);
        sr_free(text);
        value_free(v);
    }
    json_lexer_free(&l);
    return out;
}

static void check_stream(const char *bytes, const char *expected)
{
    for (size_t piece = 1; piece <= strlen(bytes) + 1; piece++)
        assert_string_equal(stream(bytes, strlen(bytes), piece), expected);
}

static void test_stream(void **state)
{
    (void)state;
    check_stream("{\"a\":1}{\"b\":2}\n[3] {} ", "{\"a\": 1}\n{\"b\": 2}\n[3]\n{}\n");
    check_stream("5\"abc\"true{}", "5\n\"abc\"\ntrue\n{}\n");
    check_stream("\"}\\\"]\"[\"]\"]", "\"}\\\"]\"\n[\"]\"]\n");
    /* Garbage, and the document behind it. */
    check_stream("blah\xff\n{}",
                 "JSON parse error, invalid keyword 'blah'\nJSON parse error, stray "
                 "'\xff'\n{}\n");
    check_stream("{\"a\":\xff\n{}", "JSON parse error, stray '\xff'\n{}\n");
    check_stream("{\"a\":01}{}",
                 "JSON parse error, stray '01'\nJSON parse error, expecting value\n{}\n");
    check_stream("{\"a\":}{}", "JSON parse error, expecting value\n{}\n");
    check_stream("{\"a\":\"\\ud800\",\"b\":[{}]}{}",
                 "JSON parse error, \\ud800 is not a valid Unicode character\n{}\n");
    check_stream("{\"a\":nope,\"b\":[{}]}{}", "JSON parse error, invalid keyword 'nope'\n{}\n");
    check_stream("{\"a\":99999999999999999999}{}",
                 "JSON parse error, integer out of range '99999999999999999999'\n{}\n");
    check_stream("{\"a\":\"\xff\"}{}",
                 "JSON parse error, stray '\"\xff'\nJSON parse error, expecting value\n{}\n");
    check_stream("){}", "JSON parse error, stray ')'\n"
                        "{}\n");
}

static void test_stream_limits(void **state)
{
    (void)state;
    char open[100] = "", close[100] = "";
    memset(open, '[', 80);
    memset(close, ']', 80);
    char *s = repeated(open, "1", close, 1);
    s = realloc(s, strlen(s) + 3);
    check_stream(strcat(s, "{}"), "JSON nesting depth limit exceeded\n{}\n");
    free(s);
    s = long_string(2 * JSON_MAX_BYTES + 1);
    s = realloc(s, 2 * JSON_MAX_BYTES + 4);
    strcat(s, "{}");
    assert_string_equal(stream(s, strlen(s), 4096), "JSON token size limit exceeded\n{}\n");
    free(s);
}

/* The nth allocation fails, for all n: an error, no leak (ASan), and the next document is well. */
static void test_allocation(void **state)
{
    (void)state;
    static const char text[] =
        "{\"a\":[1,2.5,\"x\",null,true,18446744073709551615],\"b\":{\"c\":{}}}";
    bool failed = true;
    for (uint64_t n = 1; failed; n++) {
        struct json_lexer l;
        struct value *v;
        struct error err = {0};
        json_lexer_init(&l);
        fault_arm(FAULT_ALLOC, n, false);
        json_feed(&l, text, sizeof(text) - 1, &v, &err);
        failed = fault_fired(FAULT_ALLOC);
        assert_int_equal(!v, failed);
        if (failed)
            assert_string_equal(err.msg, sr_strerror(SR_ENOMEM));
        fault_arm(FAULT_ALLOC, 0, false);
        value_free(v);
        json_lexer_free(&l);
    }
    struct error err = {0};
    struct value *v = json_parse(text, sizeof(text) - 1, &err);
    failed = true;
    for (uint64_t n = 1; failed; n++) {
        size_t len;
        fault_arm(FAULT_ALLOC, n, false);
        char *p = json_print(v, true, &len);
        failed = fault_fired(FAULT_ALLOC);
        fault_arm(FAULT_ALLOC, 0, false);
        assert_int_equal(!p, failed);
        sr_free(p);
    }
    value_free(v);
}

static void test_print_bad_utf8(void **state)
{
    (void)state;
    struct value *v = value_str("a\xff\xc3(\xed\xa0\x80\xf0\x9f");
    size_t len;
    char *p = json_print(v, false, &len);
    assert_string_equal(p, "\"a\\uFFFD\\uFFFD(\\uFFFD\\uFFFD\\uFFFD\\uFFFD\\uFFFD\"");
    sr_free(p);
    value_free(v);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values),         cmocka_unit_test(test_refused),
        cmocka_unit_test(test_limits),         cmocka_unit_test(test_stream),
        cmocka_unit_test(test_stream_limits),  cmocka_unit_test(test_allocation),
        cmocka_unit_test(test_print_bad_utf8),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
