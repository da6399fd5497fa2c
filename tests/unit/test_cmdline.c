/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The command line and configuration lists: how words are found, what reaches an option, and the
 * line that an error prints. --probe notes what it is given.
 */
#include "tests/unit/support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control/control.h"
#include "control/dispatch.h"
#include "control/json.h"
#include "kernel/kernel.h"

struct probe_opts {
    const char *key;
    const struct value *any;
    bool fail;
};
static const struct field probe_fields[] = {
    FIELD_REQ(struct probe_opts, key, "key", &type_str, "Text"),
    FIELD_OPTS(struct probe_opts, any, "any", &type_any, "Anything"),
    FIELD_DEF(struct probe_opts, fail, "fail", &type_bool, "off", "Whether to fail without a word"),
    {0},
};
static const struct type probe_type = TYPE_STRUCT_OF("Probe", struct probe_opts, probe_fields);

static char noted[1024];

static int co_probe(const void *opts, const struct value *raw, bool text, struct error *err)
{
    (void)err;
    const struct probe_opts *o = opts;
    size_t len, n = strlen(noted);
    char *printed = json_print(raw, false, &len);
    snprintf(noted + n, sizeof(noted) - n, "%s%s;", text ? "text " : "", printed);
    sr_free(printed);
    return o->fail ? SR_ENOSPC : 0;
}
static const struct option_def option_probe = {
    .name = "probe", .type = &probe_type, .implied = "key", .co_apply = co_probe, .doc = "Probe"};
REGISTER(option, option_probe);

static int co_nothing(const void *args, const struct value *raw, struct command_result *res,
                      struct error *err)
{
    (void)args, (void)res, (void)err;
    assert_int_equal(value_count(raw), 0);
    strcat(noted, "nothing;");
    return 0;
}
static const struct command command_nothing = {
    .name = "test-count", .co_run = co_nothing, .doc = "Notes that it ran"};
REGISTER(command, command_nothing);

struct run {
    const char *text; /* the firmware's, or with argv a process's words */
    char **argv;
    int argc, rc;
    bool configured, config;
};

static void co_run(void *arg)
{
    struct run *r = arg;
    struct error err = {0};
    if (r->argv)
        r->rc = co_control_apply_argv(r->argc, r->argv);
    else if (r->config)
        r->rc = co_control_config(r->text, strlen(r->text), &err);
    else
        r->rc = co_control_apply_text(r->text, &r->configured);
    if (err.set)
        printf("%s\n", err.msg);
    fflush(stdout);
}

static void in_child(void *arg)
{
    struct run *r = arg;
    noted[0] = 0;
    test_co_run(co_run, r);
    printf("<%s> %d%s\n", noted, r->rc, r->configured ? " configured" : "");
    fflush(stdout);
}

/* What it says: console lines without their time, then <what was noted> and the code. */
static const char *said(struct run *r)
{
    static char out[8192];
    assert_int_equal(test_in_child(in_child, r, out, sizeof(out)), 0);
    char *to = out;
    for (const char *from = out; *from; from++) {
        if (from == out || from[-1] == '\n')
            if (*from == '[')
                from = strchr(from, ' ') + 1;
        *to++ = *from;
    }
    *to = 0;
    return out;
}

static void expect_text(const char *text, const char *expected)
{
    struct run r = {.text = text};
    assert_string_equal(said(&r), expected);
}

static void test_words(void **state)
{
    (void)state;
    expect_text("", "<> 0\n");
    expect_text("  quiet root=/dev/sda -v -- \t", "<> 0\n");
    expect_text("--probe a", "<text {\"key\": \"a\"};> 0\n");
    expect_text("console=ttyS0 --probe=key=a --probe  key=b quiet\n",
                "<text {\"key\": \"a\"};text {\"key\": \"b\"};> 0\n");
    expect_text("--probe 'key=a b'", "<text {\"key\": \"a b\"};> 0\n");
    expect_text("--probe key=\"a 'b\"c' d'", "<text {\"key\": \"a 'bc d\"};> 0\n");
    expect_text("--probe {\"key\": \"a } ' b\", \"any\": [1, {}]} x",
                "<{\"key\": \"a } ' b\", \"any\": [1, {}]};> 0\n");
    expect_text("--probe '{\"key\": \"a\\\" b\"}'", "<{\"key\": \"a\\\" b\"};> 0\n");
    expect_text("--probe={\"key\":\"\\\"}\"} --probe z",
                "<{\"key\": \"\\\"}\"};text {\"key\": \"z\"};> 0\n");
    expect_text("--probe key=[::1 ]", "<text {\"key\": \"[::1 ]\"};> 0\n");
    expect_text("--probe key=a,any.b=1,,2,any.c=3",
                "<text {\"key\": \"a\", \"any\": {\"b\": \"1,2\", \"c\": \"3\"}};> 0\n");
}

static void test_errors(void **state)
{
    (void)state;
    expect_text("--frobnicate on", "error: --frobnicate on: unrecognized option '--frobnicate'\n"
                                   "<> -2\n");
    expect_text("--frobnicate=on", "error: --frobnicate on: unrecognized option '--frobnicate'\n"
                                   "<> -2\n");
    expect_text("--prob a", "error: --prob a: unrecognized option '--prob'\n<> -2\n");
    expect_text("--probe", "error: --probe: option '--probe' requires an argument\n<> -2\n");
    expect_text("--probe --probe x", "error: --probe: option '--probe' requires an argument\n"
                                     "<> -2\n");
    expect_text("--probe a --probe key=b,c=d --probe e",
                "error: --probe key=b,c=d: Parameter 'c' is unexpected\n"
                "<text {\"key\": \"a\"};> -2\n");
    expect_text("--probe=a,fail=on", "error: --probe a,fail=on: No space left on device\n"
                                     "<text {\"key\": \"a\", \"fail\": \"on\"};> -4\n");
    expect_text("--probe {'key'", "error: --probe {'key': JSON parse error, stray '''\n<> -2\n");
    expect_text("--probe {\"key\":\"a\" \"b\"}", "error: --probe {\"key\":\"a\" \"b\"}: JSON parse "
                                                 "error, expected separator in dict\n<> -2\n");
    expect_text("--probe {\"key\":1}", "error: --probe {\"key\":1}: Invalid parameter type for "
                                       "'key', expected: string\n<> -2\n");
    expect_text("--probe {}", "error: --probe {}: Parameter 'key' is missing\n<> -2\n");
    expect_text("--blockdev driver=nosuch,node-name=x",
                "error: --blockdev driver=nosuch,node-name=x: Parameter 'driver' does not accept "
                "value 'nosuch'\n<> -2 configured\n");
    expect_text("--blockdev driver=raw,node-name=x,file.driver=raw",
                "error: --blockdev driver=raw,node-name=x,file.driver=raw: Parameter "
                "'file.file' is missing\n<> -2 configured\n");
}

/* The sentence stays on the line, however long the value. */
static void test_long_value(void **state)
{
    (void)state;
    char text[4000] = "--probe key=a,b=";
    memset(text + strlen(text), 'x', 3000);
    struct run r = {.text = text};
    assert_non_null(strstr(said(&r), "xxx...: Parameter 'b' is unexpected\n"));
}

static void test_configured(void **state)
{
    (void)state;
    expect_text("--export=type=x", "error: --export type=x: Parameter 'type' does not accept value "
                                   "'x'\n<> -2 configured\n");
    expect_text("--nbd-server a", "error: --nbd-server a: Expected '=' after parameter 'a'\n"
                                  "<> -2 configured\n");
    expect_text("--exports a", "error: --exports a: unrecognized option '--exports'\n<> -2\n");
}

static void expect_argv(char **argv, const char *expected)
{
    struct run r = {.argv = argv};
    while (argv[r.argc])
        r.argc++;
    assert_string_equal(said(&r), expected);
}

static char *arg(const char *s)
{
    return strdup(s);
}

static void test_argv(void **state)
{
    (void)state;
    char *words[] = {arg("--probe"), arg("key=a b 'c"), arg("--probe=d"), NULL};
    expect_argv(words, "<text {\"key\": \"a b 'c\"};text {\"key\": \"d\"};> 0\n");
    char *stray[] = {words[0], words[1], arg("stray"), words[2], NULL};
    expect_argv(stray, "error: stray: Unexpected argument\n<text {\"key\": \"a b 'c\"};> -2\n");
    char *alone[] = {words[0], NULL};
    expect_argv(alone, "error: --probe: option '--probe' requires an argument\n<> -2\n");
    free(words[0]), free(words[1]), free(words[2]), free(stray[2]);
}

static void expect_config(const char *text, const char *expected)
{
    struct run r = {.text = text, .config = true};
    assert_string_equal(said(&r), expected);
}

static void test_config(void **state)
{
    (void)state;
    expect_config("[]", "<> 0\n");
    expect_config("[{\"execute\": \"test-count\"}, {\"execute\": \"test-count\", \"id\": 1}]\n",
                  "<nothing;nothing;> 0\n");
    expect_config("{\"execute\": \"test-count\"}",
                  "Configuration must be a list of commands\n<> -2\n");
    expect_config("[{\"execute\": \"test-count\"}, {\"execute\": \"nosuch\"}]",
                  "command 2, nosuch: The command nosuch has not been found\n<nothing;> -2\n");
    expect_config("[7]", "command 1: QMP input must be a JSON object\n<> -2\n");
    expect_config("[{\"execute\": \"test-count\", \"arguments\": {\"a\": 1}}]",
                  "command 1, test-count: Parameter 'a' is unexpected\n<> -2\n");
    expect_config("[{\"execute\": \"blockdev-add\", \"arguments\": {\"driver\": \"nosuch\"}}]",
                  "command 1, blockdev-add: Parameter 'driver' does not accept value 'nosuch'\n"
                  "<> -2\n");
    expect_config("[", "JSON parse error, premature EOI\n<> -2\n");
}

/* The deepest definition that its text allows: each level is checked, on a stack that holds them. */
static void test_depth(void **state)
{
    (void)state;
    char text[4096] = "--blockdev ";
    for (int i = 0; i < 64; i++)
        strcat(text, i == 63 ? "{\"driver\":\"nosuch\"" : "{\"driver\":\"raw\",\"file\":");
    for (int i = 0; i < 64; i++)
        strcat(text, "}");
    struct run r = {.text = text};
    assert_non_null(strstr(said(&r), ": Parameter 'driver' does not accept value 'nosuch'\n"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_words),      cmocka_unit_test(test_errors),
        cmocka_unit_test(test_long_value), cmocka_unit_test(test_configured),
        cmocka_unit_test(test_argv),       cmocka_unit_test(test_config),
        cmocka_unit_test(test_depth),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
