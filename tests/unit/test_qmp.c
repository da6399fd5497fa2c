/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Monitors, from the client's side: greeting, negotiation, replies, garbage, events, what becomes of
 * a peer that does not read or goes away, every allocation failing, quit.
 */
#include "tests/unit/support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control/qmp.h"
#include "kernel/command.h"
#include "kernel/kernel.h"
#include "kernel/version.h"
#include "tests/unit/support_duplex.h"

#define PATIENCE_NS 5000000000ull

/* ---- A client -------------------------------------------------------------------------------- */

struct client {
    struct stream *stream, *server;
    char line[4096];
};

static void open_client(struct client *c, size_t segment)
{
    struct stream *end[2];
    duplex_open(end, &(struct duplex_options){.segment = segment});
    c->stream = end[0];
    c->server = end[1];
    qmp_serve(end[1], false);
}

static void say(struct client *c, const char *text)
{
    assert_int_equal(co_stream_write(c->stream, text, strlen(text)), 0);
}

/* The next line without its end; NULL: the monitor closed. */
static const char *next_line(struct client *c)
{
    size_t n = 0;
    for (;;) {
        char byte;
        int rc = co_stream_read(c->stream, &byte, 1, board_clock_ns() + PATIENCE_NS);
        if (rc == SR_ETIMEDOUT)
            fail_msg("no line from the monitor in 5 s");
        if (rc)
            return NULL;
        assert_true(n < sizeof(c->line));
        c->line[n++] = byte;
        if (byte == '\n') {
            assert_true(n > 1 && c->line[n - 2] == '\r');
            c->line[n - 2] = 0;
            return c->line;
        }
    }
}

static void expect(struct client *c, const char *line)
{
    const char *got = next_line(c);
    assert_string_equal(got ? got : "(closed)", line);
}

static void ask(struct client *c, const char *text, const char *line)
{
    say(c, text);
    expect(c, line);
}

#define VERSION                                                                                             \
    "{\"qemu\": {\"major\": 7, \"minor\": 2, \"micro\": 22}, \"package\": \"strongroom " STRONGROOM_VERSION \
    "\"}"
#define GREETING              "{\"QMP\": {\"version\": " VERSION ", \"capabilities\": []}}"
#define HELLO                 "{\"execute\": \"qmp_capabilities\"}"
#define QUERY                 "{\"execute\": \"query-version\"}"
#define ERROR_OF(class, desc) "{\"error\": {\"class\": \"" class "\", \"desc\": \"" desc "\"}}"

static void meet(struct client *c)
{
    open_client(c, 0);
    expect(c, GREETING);
    ask(c, HELLO, "{\"return\": {}}");
}

static void leave(struct client *c)
{
    co_stream_close(c->stream);
    uint64_t deadline = board_clock_ns() + PATIENCE_NS;
    while (qmp_monitors() || duplex_ends) {
        if (board_clock_ns() > deadline)
            fail_msg("%u monitors, %u streams left after 5 s", qmp_monitors(), duplex_ends);
        co_sleep_ns(1000000);
    }
}

#define TEST(name)                    \
    static void co_##name(void *arg); \
    static void test_##name(void **s) \
    {                                 \
        (void)s;                      \
        test_co_run(co_##name, NULL); \
    }                                 \
    static void co_##name(void *unused)

/* ---- Commands and an event of our own -------------------------------------------------------- */

struct echo {
    int64_t size;
    bool fail;
};
static const struct field echo_fields[] = {
    FIELD_DEF(struct echo, size, "size", &type_int, "0", "Bytes of the answer"),
    FIELD_DEF(struct echo, fail, "fail", &type_bool, "off", "Fail without a word"),
    {0},
};
static const struct type echo_type = TYPE_STRUCT_OF("Echo", struct echo, echo_fields);
struct text {
    const char *text;
};
static const struct field text_fields[] = {
    FIELD_REQ(struct text, text, "text", &type_str, "Text"),
    {0},
};
static const struct type text_type = TYPE_STRUCT_OF("Text", struct text, text_fields);

static unsigned running, most_running;

/* Takes a moment, so that a second one could come in between. */
static int co_echo(const void *args, const struct value *raw, struct command_result *res,
                   struct error *err)
{
    (void)raw, (void)err;
    const struct echo *e = args;
    running++;
    most_running = MAX(most_running, running);
    co_sleep_ns(2000000);
    running--;
    struct text *t = arena_alloc(res->arena, sizeof(*t));
    char *text = arena_alloc(res->arena, (size_t)e->size + 1);
    if (!t || !text)
        return SR_ENOMEM;
    memset(text, 'x', (size_t)e->size);
    t->text = text;
    res->data = t;
    return e->fail ? SR_ENOSPC : 0;
}
static const struct command command_echo = {.name = "test-echo",
                                            .args = &echo_type,
                                            .result = &text_type,
                                            .co_run = co_echo,
                                            .doc = "Answers"};
REGISTER(command, command_echo);

static const struct event_def event_text = {.name = "TEST_TEXT", .data = &text_type};
static const struct event_def event_bare = {.name = "TEST_BARE"};

/* ---- Tests ----------------------------------------------------------------------------------- */

TEST(negotiation)
{
    (void)unused;
    struct client c;
    open_client(&c, 0);
    expect(&c, GREETING);
    ask(&c, QUERY,
        ERROR_OF("CommandNotFound", "Expecting capabilities negotiation with 'qmp_capabilities'"));
    ask(&c, "{\"execute\": \"qmp_capabilities\", \"arguments\": {\"enable\": [\"oob\"]}}",
        ERROR_OF("GenericError", "Capability oob not available"));
    ask(&c, "{\"execute\": \"qmp_capabilities\", \"arguments\": {\"enable\": []}, \"id\": 1}",
        "{\"return\": {}, \"id\": 1}");
    ask(&c, HELLO,
        ERROR_OF("CommandNotFound",
                 "Capabilities negotiation is already complete, command ignored"));
    ask(&c, QUERY, "{\"return\": " VERSION "}");
    leave(&c);
    /* Nothing of it is left for the next client. */
    open_client(&c, 0);
    expect(&c, GREETING);
    ask(&c, QUERY,
        ERROR_OF("CommandNotFound", "Expecting capabilities negotiation with 'qmp_capabilities'"));
    leave(&c);
}

TEST(requests)
{
    (void)unused;
    struct client c;
    meet(&c);
    ask(&c, "{\"execute\": \"query-version\", \"id\": {\"a\": [1, null, \"\\u00e9\"]}}",
        "{\"return\": " VERSION ", \"id\": {\"a\": [1, null, \"\\u00E9\"]}}");
    ask(&c, "{\"execute\": \"nosuch\", \"id\": \"x\"}",
        "{\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"The command nosuch has not been "
        "found\"}, \"id\": \"x\"}");
    ask(&c, "{\"execute\": 7}",
        ERROR_OF("GenericError", "QMP input member 'execute' must be a string"));
    ask(&c, "{\"execute\": \"quit\", \"arguments\": []}",
        ERROR_OF("GenericError", "QMP input member 'arguments' must be an object"));
    ask(&c, "{\"execute\": \"quit\", \"foo\": 1}",
        ERROR_OF("GenericError", "QMP input member 'foo' is unexpected"));
    ask(&c, "{\"execute\": \"quit\", \"arguments\": {\"x\": 1}}",
        ERROR_OF("GenericError", "Parameter 'x' is unexpected"));
    ask(&c, "{\"id\": 4}",
        "{\"error\": {\"class\": \"GenericError\", \"desc\": \"QMP input lacks "
        "member 'execute'\"}, \"id\": 4}");
    ask(&c, "[]", ERROR_OF("GenericError", "QMP input must be a JSON object"));
    ask(&c, "\"quit\"", ERROR_OF("GenericError", "QMP input must be a JSON object"));
    ask(&c, "{\"execute\": \"test-echo\", \"arguments\": {\"fail\": true}}",
        ERROR_OF("GenericError", "No space left on device"));
    ask(&c, "{\"execute\": \"query-block-exports\"}", "{\"return\": []}");
    ask(&c, "{\"execute\": \"query-named-block-nodes\", \"arguments\": {\"flat\": true}}",
        "{\"return\": []}");
    leave(&c);
}

TEST(garbage)
{
    (void)unused;
    struct client c;
    meet(&c);
    ask(&c, "blah\xff\n", ERROR_OF("GenericError", "JSON parse error, invalid keyword 'blah'"));
    expect(&c, ERROR_OF("GenericError", "JSON parse error, stray '\\uFFFD'"));
    ask(&c, "{\"execute\": }" QUERY, ERROR_OF("GenericError", "JSON parse error, expecting value"));
    expect(&c, "{\"return\": " VERSION "}");
    ask(&c, QUERY QUERY "\n", "{\"return\": " VERSION "}");
    expect(&c, "{\"return\": " VERSION "}");
    leave(&c);
}

TEST(pieces)
{
    (void)unused;
    struct client c;
    open_client(&c, 1);
    expect(&c, GREETING);
    ask(&c, HELLO QUERY, "{\"return\": {}}");
    expect(&c, "{\"return\": " VERSION "}");
    leave(&c);
}

TEST(commands_listed)
{
    (void)unused;
    struct client c;
    meet(&c);
    say(&c, "{\"execute\": \"query-commands\"}");
    const char *line = next_line(&c), *last = line;
    static const char *const names[] = {"qmp_capabilities", "query-block-exports",
                                        "query-commands",   "query-named-block-nodes",
                                        "query-version",    "quit"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        char entry[64];
        snprintf(entry, sizeof(entry), "{\"name\": \"%s\"}", names[i]);
        const char *at = strstr(last, entry);
        if (!at)
            fail_msg("%s is missing, or not in its place, in %s", names[i], line);
        last = at;
    }
    leave(&c);
}

/* A client that ends its input at once, as in a shell's pipe, gets its answers. */
TEST(half_closed)
{
    (void)unused;
    struct client c;
    meet(&c);
    say(&c, "{\"execute\": \"test-echo\", \"arguments\": {\"size\": 5}}{\"execute\": ");
    expect(&c, "{\"return\": {\"text\": \"xxxxx\"}}");
    leave(&c);
}

TEST(one_at_a_time)
{
    (void)unused;
    struct client a, b;
    meet(&a);
    meet(&b);
    most_running = 0;
    for (int i = 0; i < 3; i++) {
        say(&a, "{\"execute\": \"test-echo\"}");
        say(&b, "{\"execute\": \"test-echo\"}");
    }
    for (int i = 0; i < 3; i++) {
        expect(&a, "{\"return\": {\"text\": \"\"}}");
        expect(&b, "{\"return\": {\"text\": \"\"}}");
    }
    assert_int_equal(most_running, 1);
    co_stream_close(a.stream);
    leave(&b);
}

static void expect_event(struct client *c, const char *rest)
{
    unsigned long long s, us;
    int at = 0;
    const char *line = next_line(c);
    assert_int_equal(sscanf(line, "{\"timestamp\": {\"seconds\": %llu, \"microseconds\": %llu}, %n",
                            &s, &us, &at),
                     2);
    assert_true(us < 1000000);
    assert_string_equal(line + at, rest);
}

TEST(events)
{
    (void)unused;
    struct client a, b;
    struct text t = {.text = "hello"};
    meet(&a);
    open_client(&b, 0);
    expect(&b, GREETING);
    event_emit(&event_text, &t);
    event_emit(&event_bare, NULL);
    expect_event(&a, "\"event\": \"TEST_TEXT\", \"data\": {\"text\": \"hello\"}}");
    expect_event(&a, "\"event\": \"TEST_BARE\"}");
    ask(&b, HELLO, "{\"return\": {}}"); /* none of them while negotiating */
    event_emit(&event_bare, NULL);
    expect_event(&b, "\"event\": \"TEST_BARE\"}");
    co_stream_close(b.stream);
    leave(&a);
    event_emit(&event_bare, NULL); /* to nobody */
}

/* A peer that reads nothing is cut off at 1 MiB of events, and costs the others nothing. */
TEST(does_not_read)
{
    (void)unused;
    static char big[65536];
    struct client c, other;
    memset(big, 'y', sizeof(big) - 1);
    struct text t = {.text = big};
    meet(&c);
    duplex_stall(c.server, true);
    for (int i = 0; i < 15; i++) {
        event_emit(&event_text, &t);
        co_reschedule();
    }
    assert_int_equal(qmp_monitors(), 1);
    for (int i = 0; i < 4; i++) {
        event_emit(&event_text, &t);
        co_reschedule();
    }
    co_sleep_ns(5000000);
    assert_int_equal(qmp_monitors(), 0);
    open_client(&other, 0);
    expect(&other, GREETING);
    co_stream_close(c.stream);
    leave(&other);
}

/* Nor do commands pile up output: they wait for their replies to leave. */
TEST(replies_wait)
{
    (void)unused;
    struct client c;
    meet(&c);
    duplex_stall(c.server, true);
    most_running = 0;
    for (int i = 0; i < 8; i++)
        say(&c, "{\"execute\": \"test-echo\", \"arguments\": {\"size\": 200000}}");
    co_sleep_ns(50000000);
    assert_int_equal(qmp_monitors(), 1);
    duplex_stall(c.server, false);
    static char sink[200000 + sizeof("{\"return\": {\"text\": \"\"}}\r\n") - 1];
    for (int i = 0; i < 8; i++)
        assert_int_equal(
            co_stream_read(c.stream, sink, sizeof(sink), board_clock_ns() + PATIENCE_NS), 0);
    leave(&c);
}

TEST(too_many)
{
    (void)unused;
    struct client c[9];
    for (size_t i = 0; i < 9; i++)
        open_client(&c[i], 0);
    for (size_t i = 0; i < 8; i++)
        expect(&c[i], GREETING);
    assert_null(next_line(&c[8]));
    for (size_t i = 1; i < 9; i++)
        co_stream_close(c[i].stream);
    leave(&c[0]);
}

/* With the nth allocation failing: a reply or a closed monitor, and all is given back. */
static bool co_survives(uint64_t n)
{
    struct client c;
    fault_arm(FAULT_ALLOC, n, false);
    open_client(&c, 0);
    (void)co_stream_write(c.stream, HELLO, strlen(HELLO));
    static const char text[] = "{\"execute\": \"query-commands\", \"id\": [1]}";
    (void)co_stream_write(c.stream, text, strlen(text));
    unsigned lines = 0;
    while (lines < 3 && next_line(&c))
        lines++;
    bool fired = fault_fired(FAULT_ALLOC);
    fault_arm(FAULT_ALLOC, 0, false);
    leave(&c);
    return fired;
}

TEST(allocation)
{
    (void)unused;
    uint64_t n = 1;
    while (co_survives(n))
        n++;
    assert_true(n > 20);
}

TEST(close_all)
{
    (void)unused;
    struct client a, b;
    meet(&a);
    meet(&b);
    co_qmp_close_all(board_clock_ns() + 1000000000);
    assert_int_equal(qmp_monitors(), 0);
    assert_null(next_line(&a));
    co_stream_close(a.stream);
    leave(&b);
}

static void co_quit_body(void *arg)
{
    (void)arg;
    struct client c;
    meet(&c);
    ask(&c, "{\"execute\": \"quit\", \"id\": 3}" QUERY, "{\"return\": {}, \"id\": 3}");
    assert_true(system_quitting());
    co_qmp_close_all(board_clock_ns() + PATIENCE_NS);
    assert_null(next_line(&c));
    leave(&c);
}
static void quit_child(void *arg)
{
    test_co_run(co_quit_body, arg);
}
static void test_quit(void **state)
{
    (void)state;
    char said[4096];
    int status = test_in_child(quit_child, NULL, said, sizeof(said));
    if (status)
        fail_msg("status %d: %s", status, said);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_negotiation),   cmocka_unit_test(test_requests),
        cmocka_unit_test(test_garbage),       cmocka_unit_test(test_pieces),
        cmocka_unit_test(test_half_closed),   cmocka_unit_test(test_commands_listed),
        cmocka_unit_test(test_one_at_a_time), cmocka_unit_test(test_events),
        cmocka_unit_test(test_does_not_read), cmocka_unit_test(test_replies_wait),
        cmocka_unit_test(test_too_many),      cmocka_unit_test(test_allocation),
        cmocka_unit_test(test_close_all),     cmocka_unit_test(test_quit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
