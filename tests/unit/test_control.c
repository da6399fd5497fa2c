/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a QMP client and a configuration list are told: every sentence, as qemu-storage-daemon 7.2 says
 * it; what queries answer; what holds while a client vanishes, and from quit to the end.
 */
#include "tests/unit/support_nbd.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "control/control.h"
#include "control/json.h"
#include "control/qmp.h"
#include "kernel/command.h"
#include "kernel/kernel.h"

#define PATIENCE_NS (10ull * 1000000000)
#define VERSION     "\"qemu\": {\"major\": 7, \"minor\": 2, \"micro\": 22}, \"package\": "

/* ---- Client ---------------------------------------------------------------------------------- */

struct qmp {
    struct stream *s, *server;
    char line[65536];
};

static void say_line(struct qmp *c, const char *text)
{
    (void)co_stream_write(c->s, text, strlen(text));
}

/* The next line without its end; NULL: the connection ended. */
static const char *hear_line(struct qmp *c)
{
    size_t n = 0;
    while (n < 2 || memcmp(c->line + n - 2, "\r\n", 2)) {
        assert_true(n + 1 < sizeof(c->line));
        int rc = co_stream_read(c->s, c->line + n, 1, board_clock_ns() + PATIENCE_NS);
        if (rc == SR_ETIMEDOUT)
            fail_msg("no line from the monitor within 10 s");
        if (rc)
            return NULL;
        n++;
    }
    c->line[n - 2] = 0;
    return c->line;
}

static void expect(struct qmp *c, const char *request, const char *reply)
{
    say_line(c, request);
    const char *line = hear_line(c);
    assert_non_null(line);
    assert_string_equal(line, reply);
}

static struct qmp *greeted(void)
{
    struct qmp *c = malloc(sizeof(*c));
    struct stream *end[2];
    duplex_open(end, NULL);
    c->s = end[0];
    c->server = end[1];
    qmp_serve(end[1], false);
    return c;
}

static struct qmp *hello(void)
{
    struct qmp *c = greeted();
    const char *line = hear_line(c);
    assert_non_null(line);
    assert_memory_equal(line, "{\"QMP\": {\"version\": {" VERSION, 22 + strlen(VERSION) - 1);
    assert_non_null(strstr(line, "\"strongroom "));
    assert_non_null(strstr(line, "}, \"capabilities\": []}}"));
    return c;
}

static struct qmp *ready(void)
{
    struct qmp *c = hello();
    expect(c, "{\"execute\": \"qmp_capabilities\"}", "{\"return\": {}}");
    return c;
}

static void bye(struct qmp *c)
{
    co_stream_close(c->s);
    free(c);
}

static void wait_for_monitors(unsigned n)
{
    uint64_t end = board_clock_ns() + PATIENCE_NS;
    while (qmp_monitors() != n) {
        if (board_clock_ns() > end)
            fail_msg("%u monitors after 10 s, %u expected", qmp_monitors(), n);
        co_sleep_ns(100000);
    }
}

#define TEST(name)                        \
    static void co_##name(void *arg);     \
    static void test_##name(void **state) \
    {                                     \
        (void)state;                      \
        test_co_run(co_##name, NULL);     \
    }                                     \
    static void co_##name(void *arg)

#define GENERIC(desc)   "{\"error\": {\"class\": \"GenericError\", \"desc\": \"" desc "\"}}"
#define NOT_FOUND(desc) "{\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"" desc "\"}}"

/* ---- Commands of our own -------------------------------------------------------- */

static unsigned runs;

struct sleep_args {
    int64_t ms;
};
static const struct field sleep_fields[] = {
    FIELD_REQ(struct sleep_args, ms, "ms", &type_int, "How long"),
    {0},
};
static const struct type type_sleep = TYPE_STRUCT_OF("sleep-arg", struct sleep_args, sleep_fields);

static int co_sleep_command(const void *args, const struct value *raw, struct command_result *res,
                            struct error *err)
{
    const struct sleep_args *a = args;
    int64_t *n = arena_alloc(res->arena, sizeof(*n));
    (void)raw;
    if (a->ms < 0)
        return error_set_class(err, ERR_DEVICE_NOT_FOUND, SR_EINVAL, "no \"past\" here");
    co_sleep_ns((uint64_t)a->ms * 1000000);
    *n = ++runs;
    res->data = n;
    return 0;
}
static const struct command command_sleep = {
    .name = "test-sleep",
    .args = &type_sleep,
    .result = &type_int,
    .co_run = co_sleep_command,
    .doc = "Counts",
};
REGISTER(command, command_sleep);

static int co_silent(const void *args, const struct value *raw, struct command_result *res,
                     struct error *err)
{
    (void)args, (void)raw, (void)res, (void)err;
    return SR_EBUSY;
}
static const struct command command_silent = {
    .name = "test-silent", .co_run = co_silent, .doc = "Fails without a sentence"};
REGISTER(command, command_silent);

/* ---- Sentences ------------------------------------------------------------------------------- */

TEST(sentences)
{
#define CAPS "{\"execute\": \"qmp_capabilities\", \"arguments\": {\"enable\": "
    static const char *const table[][2] = {
        {"[]", GENERIC("QMP input must be a JSON object")},
        {"5 ", GENERIC("QMP input must be a JSON object")},
        {"\"abc\"", GENERIC("QMP input must be a JSON object")},
        {"null\n", GENERIC("QMP input must be a JSON object")},
        {"{}", GENERIC("QMP input lacks member 'execute'")},
        {"{\"exec\": 7}", GENERIC("QMP input member 'exec' is unexpected")},
        {"{\"exec-oob\": \"quit\"}", GENERIC("QMP input member 'exec-oob' is unexpected")},
        {"{\"execute\": 7}", GENERIC("QMP input member 'execute' must be a string")},
        {"{\"execute\": \"quit\", \"arguments\": 5}",
         GENERIC("QMP input member 'arguments' must be an object")},
        {CAPS "[\"foo\"]}}", GENERIC("Parameter 'enable[0]' does not accept value 'foo'")},
        {CAPS "5}}", GENERIC("Invalid parameter type for 'enable', expected: array")},
        {"{\"execute\": \"nosuch\"}", NOT_FOUND("The command nosuch has not been found")},
        {"{\"execute\": \"query-version\", \"arguments\": {\"x\": 1}}",
         GENERIC("Parameter 'x' is unexpected")},
        {"{\"execute\": \"test-sleep\"}", GENERIC("Parameter 'ms' is missing")},
        {"{\"execute\": \"test-sleep\", \"arguments\": {\"ms\": \"5\"}}",
         GENERIC("Invalid parameter type for 'ms', expected: integer")},
        {"{\"execute\": \"test-sleep\", \"arguments\": {\"ms\": -1}}",
         "{\"error\": {\"class\": \"DeviceNotFound\", \"desc\": \"no \\\"past\\\" here\"}}"},
        {"{\"execute\": \"test-silent\"}", GENERIC("Device or resource busy")},
        {"nul ", GENERIC("JSON parse error, invalid keyword 'nul'")},
        {"{\"a\" \"b\"}", GENERIC("JSON parse error, missing : in object pair")},
        {"\xff\n", GENERIC("JSON parse error, stray '\\uFFFD'")},
        {"{\"execute\": \"query-\xff\n", GENERIC("JSON parse error, stray '\\\"query-\\uFFFD'")},
    };
    (void)arg;
    struct qmp *c = ready();
    for (size_t i = 0; i < ARRAY_LEN(table); i++)
        expect(c, table[i][0], table[i][1]);
    bye(c);
    wait_for_monitors(0);
}

/* ---- Vanishing ----------------------------------------------------------------------------------- */

#define SLEEP(ms, id) \
    "{\"execute\": \"test-sleep\", \"arguments\": {\"ms\": " #ms "}, \"id\": " #id "}"

/* Who goes away in the middle of a document, or of a command, leaves nothing. */
TEST(vanishing)
{
    (void)arg;
    struct qmp *c = ready();
    say_line(c, "{\"execute\": [1, {\"a\": \"b");
    bye(c);
    wait_for_monitors(0);
    c = ready();
    runs = 0;
    say_line(c, SLEEP(20, 1));
    co_sleep_ns(5000000);
    stream_abort(c->s);
    bye(c);
    wait_for_monitors(0);
    assert_int_equal(runs, 1);
}

/* ---- Queries --------------------------------------------------------------------------------- */

TEST(queries)
{
    (void)arg;
    nbd_test_export("m1", "size=1M", "id=e1,name=one,writable=on");
    struct qmp *c = ready();
    expect(c, "{\"execute\": \"query-block-exports\"}",
           "{\"return\": [{\"id\": \"e1\", \"type\": \"nbd\", \"node-name\": \"m1\", "
           "\"shutting-down\": false}]}");
    expect(c, "{\"execute\": \"query-named-block-nodes\", \"arguments\": {\"flat\": true}}",
           "{\"return\": [{\"file\": \"\", \"node-name\": \"m1\", \"ro\": false, \"drv\": \"mem\", "
           "\"backing_file_depth\": 0, \"encrypted\": false, \"detect_zeroes\": \"off\", "
           "\"bps\": 0, \"bps_rd\": 0, \"bps_wr\": 0, \"iops\": 0, \"iops_rd\": 0, \"iops_wr\": 0, "
           "\"image\": {\"filename\": \"\", \"format\": \"mem\", \"virtual-size\": 1048576}, "
           "\"cache\": {\"writeback\": true, \"direct\": false, \"no-flush\": false}, "
           "\"write_threshold\": 0}]}");
    nbd_test_unexport("e1", "m1");
    expect(c, "{\"execute\": \"query-block-exports\"}", "{\"return\": []}");
    expect(c, "{\"execute\": \"query-commands\"}",
           "{\"return\": [{\"name\": \"qmp_capabilities\"}, {\"name\": \"query-block-exports\"}, "
           "{\"name\": \"query-commands\"}, {\"name\": \"query-named-block-nodes\"}, "
           "{\"name\": \"query-version\"}, {\"name\": \"quit\"}, {\"name\": \"test-silent\"}, "
           "{\"name\": \"test-sleep\"}]}");
    bye(c);
    wait_for_monitors(0);
}

/* ---- Configuration --------------------------------------------------------------------------- */

static void check_config(const char *text, const char *sentence)
{
    struct error err = {0};
    int rc = co_control_config(text, strlen(text), &err);
    assert_string_equal(err.set ? err.msg : "", sentence);
    assert_int_equal(rc != 0, *sentence != 0);
}

TEST(configuration)
{
    (void)arg;
    runs = 0;
    check_config("[]", "");
    check_config("[{\"execute\": \"query-version\"}, " SLEEP(1, 1) "]", "");
    assert_int_equal(runs, 1);
    check_config("{}", "Configuration must be a list of commands");
    check_config("[", "JSON parse error, premature EOI");
    check_config("[5]", "command 1: QMP input must be a JSON object");
    check_config("[" SLEEP(0, 1) ", " SLEEP(-1, 2) ", " SLEEP(0, 3) "]",
                 "command 2, test-sleep: no \"past\" here");
    assert_int_equal(runs, 2);
    check_config("[{\"execute\": \"nosuch\"}]",
                 "command 1, nosuch: The command nosuch has not been found");
}

/* ---- quit ------------------------------------------------------------------------------------ */

static void co_quitting(void *arg)
{
    (void)arg;
    struct qmp *a = ready(), *b = ready(), *c = ready();
    runs = 0;
    duplex_stall(c->server, true); /* does not read */
    say_line(c, "{\"execute\": \"query-version\"}");
    expect(a, "{\"execute\": \"quit\"}" SLEEP(0, 1), "{\"return\": {}}");
    assert_true(system_quitting());
    say_line(b, SLEEP(0, 2));
    char byte;
    assert_int_equal(co_stream_read(a->s, &byte, 1, board_clock_ns() + 50000000), SR_ETIMEDOUT);
    uint64_t start = board_clock_ns();
    co_qmp_close_all(start + PATIENCE_NS);
    assert_true(board_clock_ns() - start < PATIENCE_NS / 2);
    assert_int_equal(qmp_monitors(), 0);
    assert_null(hear_line(a));
    assert_null(hear_line(b));
    assert_int_equal(runs, 0);
    _exit(0);
}

static void quitting(void *arg)
{
    test_co_run(co_quitting, arg);
}

static void test_quit(void **state)
{
    static char output[16384];
    (void)state;
    int status = test_in_child(quitting, NULL, output, sizeof(output));
    if (status)
        fail_msg("child: %d\n%s", status, output);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_quit),          cmocka_unit_test(test_sentences),
        cmocka_unit_test(test_vanishing),     cmocka_unit_test(test_queries),
        cmocka_unit_test(test_configuration),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
