/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The NBD handshake, clause by clause of doc/proto.md (and its branch extension-ext-header). Each
 * test names the clause; all run against the whole server over a pipe.
 */
#include "tests/unit/support_nbd.h"

#include <stdlib.h>
#include <string.h>

#include "kernel/command.h"
#include "kernel/kernel.h"
#include "net/nbd/nbd.h"

#define DESCRIPTION "a disk, for tests"

static void co_setup(void)
{
    static bool done;
    if (done)
        return;
    done = true;
    nbd_test_export("m1", "size=1M,request-alignment=512,fua=on,write-zeroes=on",
                    "id=e1,name=one,writable=on,description="
                    "a disk,, for tests");
    nbd_test_export("m2", "size=1000", "id=e2,name=two");
}

/* A test: a coroutine with a client that has said hello (flags 3), and is in step at its end. */
#define TEST(name)                           \
    static void co_##name(struct client *c); \
    static void body_##name(void *arg)       \
    {                                        \
        struct client client;                \
        (void)arg;                           \
        co_setup();                          \
        client_hello(&client, NULL);         \
        co_##name(&client);                  \
        client_close(&client);               \
    }                                        \
    static void test_##name(void **state)    \
    {                                        \
        (void)state;                         \
        test_co_run(body_##name, NULL);      \
    }                                        \
    static void co_##name(struct client *c)

/* The server understands the next option: LIST gives two exports. */
static void expect_in_step(struct client *c)
{
    uint32_t len;
    say_option(c, NBD_OPT_LIST, NULL, 0);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(hear_reply(c, NBD_OPT_LIST, &len), NBD_REP_SERVER);
        hear_skip(c, len);
    }
    expect_ack(c, NBD_OPT_LIST);
}

static void again(struct client *c)
{
    client_close(c);
    client_hello(c, NULL);
}

/* "the server MUST drop the TCP connection if the client sets an unknown flag" */
TEST(unknown_client_flag)
{
    for (int bit = 2; bit < 32; bit += 7) {
        client_close(c);
        client_connect(c, NULL);
        say32(c, 3u | 1u << bit);
        hear_end(c);
    }
}

/* "MUST reply with NBD_REP_ERR_UNSUP, and MUST NOT fail to parse the next message received" */
TEST(unknown_option)
{
    static const uint32_t unknown[] = {0, 4, 12, 1000, 0xffffffff};
    static const char data[100];
    for (unsigned i = 0; i < ARRAY_LEN(unknown); i++) {
        say_option(c, unknown[i], data, i * 25);
        expect_error(c, unknown[i], NBD_REP_ERR_UNSUP);
    }
    expect_in_step(c);
}

TEST(option_lengths)
{
    char *big = calloc(1, 100000);
    say_option(c, NBD_OPT_INFO, big, 100000); /* more than is looked at, but bearable */
    expect_error(c, NBD_OPT_INFO, NBD_REP_ERR_TOO_BIG);
    expect_in_step(c);
    say64(c, NBD_OPTION_MAGIC); /* "a denial of service": hard disconnect */
    say32(c, NBD_OPT_INFO);
    say32(c, 0xffffffff);
    hear_end(c);
    again(c);
    for (int i = 0; i < 10; i++) { /* in small portions: the sum is bounded too */
        say_option(c, 77, big, 100000);
        expect_error(c, 77, NBD_REP_ERR_TOO_BIG);
    }
    say_option(c, 77, big, 100000);
    hear_end(c);
    free(big);
}

TEST(bad_option_magic)
{
    say64(c, NBD_OPTION_MAGIC + 1);
    say32(c, NBD_OPT_LIST);
    say32(c, 0);
    hear_end(c);
}

/* "MUST NOT contain NUL", "MUST be no longer than 4096 bytes"; syntactically wrong: ERR_INVALID */
TEST(strings)
{
    static const char nul[] = "\0\0\0\3o\0e\0\0";
    char *longname = calloc(1, 4 + 4097 + 2);
    say_option(c, NBD_OPT_INFO, nul, sizeof(nul) - 1);
    expect_error(c, NBD_OPT_INFO, NBD_REP_ERR_INVALID);
    memset(longname, 'x', 4 + 4097);
    memcpy(longname, "\0\0\x10\1", 4);
    say_option(c, NBD_OPT_INFO, longname, 4 + 4097 + 2);
    expect_error(c, NBD_OPT_INFO, NBD_REP_ERR_INVALID);
    memcpy(longname, "\0\0\x10\0", 4); /* 4096 are fine, and unknown */
    longname[4 + 4096] = longname[4 + 4097] = 0;
    say_option(c, NBD_OPT_INFO, longname, 4 + 4096 + 2);
    expect_error(c, NBD_OPT_INFO, NBD_REP_ERR_UNKNOWN);
    free(longname);
    expect_in_step(c);
}

/* ---- EXPORT_NAME ---- */

static void expect_export_name(struct client *c, size_t pad)
{
    uint8_t zeroes[NBD_EXPORT_PAD], byte;
    say_option(c, NBD_OPT_EXPORT_NAME, "one", 3);
    assert_int_equal(hear64(c), 1 << 20);
    assert_true(hear16(c) & NBD_FLAG_HAS_FLAGS);
    if (pad) {
        hear(c, zeroes, pad);
        for (size_t i = 0; i < pad; i++)
            assert_int_equal(zeroes[i], 0);
    }
    assert_int_equal(do_read(c, 0, &byte, 1), 0);
}

/* 124 zeroes "unless NBD_FLAG_C_NO_ZEROES was negotiated" */
TEST(export_name)
{
    expect_export_name(c, 0);
    client_close(c);
    client_connect(c, NULL);
    say32(c, NBD_FLAG_C_FIXED_NEWSTYLE);
    expect_export_name(c, NBD_EXPORT_PAD);
    client_close(c);
    client_connect(c, NULL); /* not even fixed newstyle: this option is what there is */
    say32(c, 0);
    expect_export_name(c, NBD_EXPORT_PAD);
    client_close(c);
    client_connect(c, NULL);
    say32(c, 0);
    say_option(c, NBD_OPT_LIST, NULL, 0);
    hear_end(c);
}

/* "If the chosen export does not exist ... the server MUST terminate the session" */
TEST(export_name_unknown)
{
    char longname[4097];
    say_option(c, NBD_OPT_EXPORT_NAME, "three", 5);
    hear_end(c);
    again(c);
    say_option(c, NBD_OPT_EXPORT_NAME, "on", 2); /* names are exact */
    hear_end(c);
    again(c);
    say_option(c, NBD_OPT_EXPORT_NAME, NULL, 0); /* no default: there are two */
    hear_end(c);
    again(c);
    memset(longname, 'x', sizeof(longname));
    say_option(c, NBD_OPT_EXPORT_NAME, longname, sizeof(longname));
    hear_end(c);
}

/* ---- ABORT, LIST ---- */

/* "The server MUST reply with NBD_REP_ACK"; "SHOULD ignore any data" */
TEST(abort)
{
    say_option(c, NBD_OPT_ABORT, NULL, 0);
    expect_ack(c, NBD_OPT_ABORT);
    hear_end(c);
    again(c);
    say_option(c, NBD_OPT_ABORT, "bye", 3);
    expect_ack(c, NBD_OPT_ABORT);
    hear_end(c);
}

TEST(list)
{
    char text[64] = {0};
    uint32_t len, name;
    say_option(c, NBD_OPT_LIST, NULL, 0);
    assert_int_equal(hear_reply(c, NBD_OPT_LIST, &len), NBD_REP_SERVER);
    name = hear32(c);
    assert_int_equal(name, 3);
    assert_true(name <= len - 4); /* "MUST be no larger than the reply packet header length - 4" */
    hear(c, text, len - 4);
    assert_string_equal(text, "one" DESCRIPTION);
    assert_int_equal(hear_reply(c, NBD_OPT_LIST, &len), NBD_REP_SERVER);
    assert_int_equal(len, 7);
    hear_skip(c, len);
    expect_ack(c, NBD_OPT_LIST);
    say_option(c, NBD_OPT_LIST, "x", 1); /* "SHOULD reject a request that includes data" */
    expect_error(c, NBD_OPT_LIST, NBD_REP_ERR_INVALID);
    expect_in_step(c);
}

/* ---- INFO, GO ---- */

/* ACK after INFO_EXPORT; unknown requests ignored; INFO does not enter transmission, GO does, with
 * no padding whatever the client's flags. */
TEST(info_go)
{
    static const int odd[] = {999, NBD_INFO_EXPORT, 4, -1};
    uint8_t byte;
    client_close(c);
    client_connect(c, NULL);
    say32(c, NBD_FLAG_C_FIXED_NEWSTYLE);
    say_info(c, NBD_OPT_INFO, "one", odd);
    expect_info_and_ack(c, NBD_OPT_INFO);
    assert_int_equal(c->size, 1 << 20);
    say_info(c, NBD_OPT_INFO, "two", NULL);
    expect_info_and_ack(c, NBD_OPT_INFO);
    assert_int_equal(c->size, 1000);
    expect_in_step(c);
    say_info(c, NBD_OPT_GO, "one", odd);
    expect_info_and_ack(c, NBD_OPT_GO);
    hear_nothing(c);
    assert_int_equal(do_read(c, 0, &byte, 1), 0);
}

/* "NBD_REP_ERR_UNKNOWN: the chosen export does not exist"; and no disconnect */
TEST(info_unknown)
{
    static const uint32_t both[] = {NBD_OPT_INFO, NBD_OPT_GO};
    for (int i = 0; i < 2; i++) {
        say_info(c, both[i], "three", NULL);
        expect_error(c, both[i], NBD_REP_ERR_UNKNOWN);
        say_info(c, both[i], "", NULL); /* two exports: no default */
        expect_error(c, both[i], NBD_REP_ERR_UNKNOWN);
    }
    expect_in_step(c);
}

TEST(info_malformed)
{
    static const struct {
        const char *data;
        uint32_t len;
    } bad[] = {
        {"", 0},
        {"\0\0\0", 3},
        {"\0\0\0\3one", 7},             /* no count */
        {"\0\0\0\3one\0\1", 9},         /* a request is missing */
        {"\0\0\0\3one\0\1\0", 10},      /* half of it is */
        {"\0\0\0\3one\0\0\0\0", 11},    /* one too many */
        {"\0\0\0\10one\0\0", 9},        /* the name reaches beyond the end */
        {"\xff\xff\xff\xffone\0\0", 9}, /* far beyond */
    };
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
        say_option(c, i & 1 ? NBD_OPT_GO : NBD_OPT_INFO, bad[i].data, bad[i].len);
        expect_error(c, i & 1 ? NBD_OPT_GO : NBD_OPT_INFO, NBD_REP_ERR_INVALID);
    }
    expect_in_step(c);
}

struct infos {
    bool name, description, block_size;
    char text[2][64];
    uint32_t min, pref, max;
};

static void hear_infos(struct client *c, uint32_t option, struct infos *in)
{
    uint32_t len;
    *in = (struct infos){0};
    while (hear_reply(c, option, &len) == NBD_REP_INFO) {
        uint16_t type = hear16(c);
        if (type == NBD_INFO_NAME || type == NBD_INFO_DESCRIPTION) {
            assert_true(len - 2 < 64);
            hear(c, in->text[type == NBD_INFO_DESCRIPTION], len - 2);
            *(type == NBD_INFO_NAME ? &in->name : &in->description) = true;
        } else if (type == NBD_INFO_BLOCK_SIZE) {
            assert_int_equal(len, 14);
            in->block_size = true;
            in->min = hear32(c);
            in->pref = hear32(c);
            in->max = hear32(c);
        } else {
            hear_skip(c, len - 2);
        }
    }
}

/* Sizes: powers of two, ordered; sent when asked for, and with them name and description. */
TEST(info_contents)
{
    static const int all[] = {NBD_INFO_DESCRIPTION, NBD_INFO_BLOCK_SIZE, NBD_INFO_NAME, -1};
    struct infos in, same;
    say_info(c, NBD_OPT_INFO, "one", all);
    hear_infos(c, NBD_OPT_INFO, &in);
    assert_true(in.name && in.description && in.block_size);
    assert_string_equal(in.text[0], "one");
    assert_string_equal(in.text[1], DESCRIPTION);
    assert_int_equal(in.min, 1);
    assert_true(is_pow2(in.pref) && in.pref >= 512 && in.pref >= in.min);
    assert_true(in.max >= in.pref && in.max >= 32u << 20);
    say_info(c, NBD_OPT_INFO, "two", all);
    hear_infos(c, NBD_OPT_INFO, &in);
    assert_true(in.name && !in.description && in.block_size);
    assert_int_equal(in.min, 1);
    /* "the server MUST reply with the same set of information" to GO after INFO */
    say_info(c, NBD_OPT_INFO, "one", all);
    hear_infos(c, NBD_OPT_INFO, &in);
    say_info(c, NBD_OPT_GO, "one", all);
    hear_infos(c, NBD_OPT_GO, &same);
    assert_memory_equal(&in, &same, sizeof(in));
}

/* ---- STRUCTURED_REPLY, EXTENDED_HEADERS, STARTTLS ---- */

TEST(structured)
{
    say_option(c, NBD_OPT_STRUCTURED_REPLY, "x", 1);
    expect_error(c, NBD_OPT_STRUCTURED_REPLY, NBD_REP_ERR_INVALID);
    say_info(c, NBD_OPT_INFO, "one", NULL);
    expect_info_and_ack(c, NBD_OPT_INFO);
    assert_false(c->flags & NBD_FLAG_SEND_DF); /* "MUST leave this flag clear" */
    say_option(c, NBD_OPT_STRUCTURED_REPLY, NULL, 0);
    expect_ack(c, NBD_OPT_STRUCTURED_REPLY);
    say_info(c, NBD_OPT_INFO, "one", NULL);
    expect_info_and_ack(c, NBD_OPT_INFO);
    assert_true(c->flags & NBD_FLAG_SEND_DF);
    expect_in_step(c);
}

TEST(extended)
{
    say_option(c, NBD_OPT_EXTENDED_HEADERS, "x", 1);
    expect_error(c, NBD_OPT_EXTENDED_HEADERS, NBD_REP_ERR_INVALID);
    say_option(c, NBD_OPT_EXTENDED_HEADERS, NULL, 0);
    expect_ack(c, NBD_OPT_EXTENDED_HEADERS);
    say_option(c, NBD_OPT_STRUCTURED_REPLY, NULL, 0); /* "takes precedence over this option" */
    expect_error(c, NBD_OPT_STRUCTURED_REPLY, NBD_REP_ERR_EXT_HEADER_REQD);
    say_info(c, NBD_OPT_INFO, "one", NULL);
    expect_info_and_ack(c, NBD_OPT_INFO);
    assert_false(c->flags & NBD_FLAG_BLOCK_STATUS_PAYLOAD); /* without contexts: "SHOULD NOT" */
    say_meta(c, NBD_OPT_SET_META_CONTEXT, "one", 1, "base:allocation");
    hear_context(c, NBD_OPT_SET_META_CONTEXT);
    expect_ack(c, NBD_OPT_SET_META_CONTEXT);
    say_info(c, NBD_OPT_INFO, "one", NULL);
    expect_info_and_ack(c, NBD_OPT_INFO);
    assert_true(c->flags & NBD_FLAG_BLOCK_STATUS_PAYLOAD);
    assert_true(c->flags & NBD_FLAG_SEND_DF);
    say_option(c, NBD_OPT_EXPORT_NAME, "one", 3); /* "MUST NOT use this option" */
    hear_end(c);
}

/* NOTLS: "MUST NOT respond to any option request with NBD_REP_ERR_TLS_REQD" */
TEST(starttls)
{
    say_option(c, NBD_OPT_STARTTLS, NULL, 0);
    expect_error(c, NBD_OPT_STARTTLS, NBD_REP_ERR_UNSUP);
    say_option(c, NBD_OPT_STARTTLS, "x", 1);
    expect_error(c, NBD_OPT_STARTTLS, NBD_REP_ERR_INVALID);
    expect_in_step(c);
}

/* ---- metadata contexts ---- */

/* "MUST NOT be requested unless structured replies or extended headers have been negotiated" */
TEST(meta_needs_structured)
{
    say_meta(c, NBD_OPT_SET_META_CONTEXT, "one", 1, "base:allocation");
    expect_error(c, NBD_OPT_SET_META_CONTEXT, NBD_REP_ERR_INVALID);
    say_meta(c, NBD_OPT_LIST_META_CONTEXT, "one", 0);
    expect_error(c, NBD_OPT_LIST_META_CONTEXT, NBD_REP_ERR_INVALID);
    say_option(c, NBD_OPT_EXTENDED_HEADERS, NULL, 0);
    expect_ack(c, NBD_OPT_EXTENDED_HEADERS);
    say_meta(c, NBD_OPT_LIST_META_CONTEXT, "one", 0);
    hear_context(c, NBD_OPT_LIST_META_CONTEXT);
    expect_ack(c, NBD_OPT_LIST_META_CONTEXT);
}

static void go_structured(struct client *c)
{
    say_option(c, NBD_OPT_STRUCTURED_REPLY, NULL, 0);
    expect_ack(c, NBD_OPT_STRUCTURED_REPLY);
    c->mode = STRUCTURED;
}

TEST(meta_malformed)
{
    static const struct {
        const char *data;
        uint32_t len;
    } bad[] = {
        {"", 0},
        {"\0\0\0\3one", 7},
        {"\0\0\0\3one\0\0\0\1", 11},
        {"\0\0\0\3one\0\0\0\1\0\0\0\5base:a", 21},     /* one byte behind the query */
        {"\0\0\0\3one\0\0\0\1\0\0\0\7base:a", 21},     /* "would require reading beyond" */
        {"\0\0\0\3one\xff\xff\xff\xff\0\0\0\2a:", 17}, /* not that many */
        {"\0\0\0\3one\0\0\0\1\0\0\0\4base", 19},       /* no namespace */
    };
    go_structured(c);
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++)
        for (uint32_t o = NBD_OPT_LIST_META_CONTEXT; o <= NBD_OPT_SET_META_CONTEXT; o++) {
            say_option(c, o, bad[i].data, bad[i].len);
            expect_error(c, o, NBD_REP_ERR_INVALID);
        }
    say_meta(c, NBD_OPT_SET_META_CONTEXT, "three", 1, "base:allocation");
    expect_error(c, NBD_OPT_SET_META_CONTEXT, NBD_REP_ERR_UNKNOWN);
    say_meta(c, NBD_OPT_LIST_META_CONTEXT, "three", 0);
    expect_error(c, NBD_OPT_LIST_META_CONTEXT, NBD_REP_ERR_UNKNOWN);
    expect_in_step(c);
}

/* 0 queries: all; "base:" is a wildcard; unknown namespaces and leaves: ignored */
TEST(meta_list)
{
    const uint32_t o = NBD_OPT_LIST_META_CONTEXT;
    go_structured(c);
    say_meta(c, o, "one", 0);
    hear_context(c, o);
    expect_ack(c, o);
    say_meta(c, o, "one", 1, "base:");
    hear_context(c, o);
    expect_ack(c, o);
    say_meta(c, o, "one", 3, "x-foo:bar", "base:allocation", "base:");
    hear_context(c, o);
    expect_ack(c, o);
    say_meta(c, o, "one", 3, "x-foo:bar", "base:nosuch", "qemu:dirty-bitmap:b");
    expect_ack(c, o);
}

/* "base:" in SET: "MUST ignore this form"; 0 queries: "MUST select no metadata contexts" */
TEST(meta_set)
{
    const uint32_t o = NBD_OPT_SET_META_CONTEXT;
    go_structured(c);
    say_meta(c, o, "one", 1, "base:");
    expect_ack(c, o);
    say_meta(c, o, "one", 0);
    expect_ack(c, o);
    say_meta(c, o, "one", 3, "x-foo:", "base:allocation", "base:allocation");
    hear_context(c, o);
    expect_ack(c, o);
}

/* Selects, then GO "one": what BLOCK_STATUS says tells what is selected. */
static uint32_t status_after_go(struct client *c)
{
    struct chunk_head h;
    uint64_t cookie = 5;
    say_info(c, NBD_OPT_GO, "one", NULL);
    expect_info_and_ack(c, NBD_OPT_GO);
    say_request(c, NBD_CMD_BLOCK_STATUS, 0, cookie, 0, 512);
    hear_chunk(c, &h);
    if (h.type == NBD_REPLY_TYPE_ERROR)
        return hear32(c);
    assert_int_equal(h.type, NBD_REPLY_TYPE_BLOCK_STATUS);
    return 0;
}

static void set(struct client *c, const char *export, const char *query, bool found)
{
    say_meta(c, NBD_OPT_SET_META_CONTEXT, export, 1, query);
    if (found)
        hear_context(c, NBD_OPT_SET_META_CONTEXT);
    expect_ack(c, NBD_OPT_SET_META_CONTEXT);
}

/* "replaces all previously-set metadata contexts (including when this command fails)"; "referred to
 * the same export name that was ultimately selected" */
TEST(meta_binding)
{
    go_structured(c);
    set(c, "one", "base:allocation", true);
    assert_int_equal(status_after_go(c), 0);
    again(c);
    go_structured(c);
    assert_int_equal(status_after_go(c), NBD_EINVAL); /* none was selected */
    again(c);
    go_structured(c);
    set(c, "one", "base:allocation", true);
    set(c, "one", "base:", false);
    assert_int_equal(status_after_go(c), NBD_EINVAL); /* replaced by nothing */
    again(c);
    go_structured(c);
    set(c, "one", "base:allocation", true);
    say_option(c, NBD_OPT_SET_META_CONTEXT, NULL, 0);
    expect_error(c, NBD_OPT_SET_META_CONTEXT, NBD_REP_ERR_INVALID);
    assert_int_equal(status_after_go(c), NBD_EINVAL); /* a failed one replaces too */
    again(c);
    go_structured(c);
    set(c, "two", "base:allocation", true);
    assert_int_equal(status_after_go(c), NBD_EINVAL); /* for another export */
    again(c);
    go_structured(c);
    set(c, "one", "base:allocation", true);
    say_info(c, NBD_OPT_INFO, "two", NULL); /* asking about another changes nothing */
    expect_info_and_ack(c, NBD_OPT_INFO);
    assert_int_equal(status_after_go(c), 0);
}

/* ---- bounds ---- */

/* One byte now and then: the whole handshake has a time-out. */
TEST(time_out)
{
    uint64_t begin = board_clock_ns();
    say64(c, NBD_OPTION_MAGIC);
    say32(c, 77);
    say32(c, 1000);
    for (int i = 0; i < 200; i++) {
        if (co_stream_write(c->s, "I", 1) ||
            co_stream_wait(c->s, 1, board_clock_ns() + 50000000) != SR_ETIMEDOUT)
            break;
    }
    uint64_t ms = (board_clock_ns() - begin) / 1000000;
    assert_in_range(ms, TEST_HANDSHAKE_SECONDS * 1000 - 500, TEST_HANDSHAKE_SECONDS * 1000 + 4000);
}

TEST(connection_limit)
{
    struct client more[TEST_MAX_CONNECTIONS];
    struct stream *end[2];
    for (int i = 1; i < TEST_MAX_CONNECTIONS; i++)
        client_hello(&more[i], NULL);
    duplex_open(end, NULL);
    nbd_accepted(NULL, end[1]);
    assert_int_not_equal(co_stream_wait(end[0], 1, board_clock_ns() + 1000000000), 0);
    co_stream_close(end[0]);
    expect_in_step(c); /* others notice nothing */
    client_close(&more[1]);
    co_sleep_ns(20000000);
    client_hello(&more[1], NULL); /* a place is free again */
    for (int i = 1; i < TEST_MAX_CONNECTIONS; i++)
        client_close(&more[i]);
}

/* The empty name is an alias while there is exactly one export. */
TEST(default_export)
{
    client_close(c);
    nbd_test_unexport("e2", "m2");
    client_hello(c, NULL);
    say_info(c, NBD_OPT_INFO, "", NULL);
    expect_info_and_ack(c, NBD_OPT_INFO);
    assert_int_equal(c->size, 1 << 20);
    say_option(c, NBD_OPT_EXPORT_NAME, NULL, 0);
    assert_int_equal(hear64(c), 1 << 20);
    hear_skip(c, 2);
    nbd_test_export("m2", "size=1000", "id=e2,name=two");
}

/* "SHOULD error further options received (other than ABORT) with NBD_REP_ERR_SHUTDOWN" */
TEST(shutdown)
{
    system_quit();
    say_option(c, NBD_OPT_LIST, NULL, 0);
    expect_error(c, NBD_OPT_LIST, NBD_REP_ERR_SHUTDOWN);
    say_info(c, NBD_OPT_GO, "one", NULL);
    expect_error(c, NBD_OPT_GO, NBD_REP_ERR_SHUTDOWN);
    say_option(c, NBD_OPT_ABORT, NULL, 0);
    expect_ack(c, NBD_OPT_ABORT);
    hear_end(c);
}

static void co_clean(void *arg)
{
    (void)arg;
    nbd_test_unexport("e1", "m1");
    nbd_test_unexport("e2", "m2");
    co_sleep_ns(20000000);
    assert_int_equal(duplex_ends, 0);
}

static void test_clean(void **state)
{
    (void)state;
    test_co_run(co_clean, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_unknown_client_flag),
        cmocka_unit_test(test_unknown_option),
        cmocka_unit_test(test_option_lengths),
        cmocka_unit_test(test_bad_option_magic),
        cmocka_unit_test(test_strings),
        cmocka_unit_test(test_export_name),
        cmocka_unit_test(test_export_name_unknown),
        cmocka_unit_test(test_abort),
        cmocka_unit_test(test_list),
        cmocka_unit_test(test_info_go),
        cmocka_unit_test(test_info_unknown),
        cmocka_unit_test(test_info_malformed),
        cmocka_unit_test(test_info_contents),
        cmocka_unit_test(test_structured),
        cmocka_unit_test(test_extended),
        cmocka_unit_test(test_starttls),
        cmocka_unit_test(test_meta_needs_structured),
        cmocka_unit_test(test_meta_malformed),
        cmocka_unit_test(test_meta_list),
        cmocka_unit_test(test_meta_set),
        cmocka_unit_test(test_meta_binding),
        cmocka_unit_test(test_time_out),
        cmocka_unit_test(test_connection_limit),
        cmocka_unit_test(test_default_export),
        cmocka_unit_test(test_shutdown),
        cmocka_unit_test(test_clean),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
