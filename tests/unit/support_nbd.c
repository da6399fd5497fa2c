/* SPDX-License-Identifier: BSD-2-Clause */
#include "tests/unit/support_nbd.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernel/command.h"
#include "kernel/kernel.h"
#include "net/nbd/nbd.h"

#define PATIENCE_NS (10ull * 1000000000)

/* ---- the server ---- */

static void co_option(const char *name, const char *text)
{
    struct error err = {0};
    registry_for_each (option, o) {
        if (strcmp((*o)->name, name))
            continue;
        struct arena a;
        arena_init(&a);
        struct value *v = schema_parse_keyval(text, (*o)->implied, &err);
        max_align_t opts[64] = {0};
        int rc = v ? schema_decode((*o)->type, v, SCHEMA_TEXT, opts, &a, &err) : SR_EINVAL;
        if (!rc)
            rc = (*o)->co_apply(opts, v, true, &err);
        value_free(v);
        arena_free(&a);
        if (rc)
            fail_msg("--%s %s: %s", name, text, err.msg);
        return;
    }
    fail_msg("no option --%s", name);
}

void nbd_test_server(void)
{
    char text[128];
    if (nbd_server_running())
        return;
    snprintf(text, sizeof(text),
             "addr.type=unix,addr.path=/nowhere,max-connections=%d,handshake-max-seconds=%d",
             TEST_MAX_CONNECTIONS, TEST_HANDSHAKE_SECONDS);
    co_option("nbd-server", text);
}

struct node *nbd_test_export(const char *node, const char *mem_options, const char *export)
{
    char text[512];
    nbd_test_server();
    snprintf(text, sizeof(text), "driver=mem,node-name=%s,discard=unmap,%s", node, mem_options);
    struct node *n = test_open(text);
    snprintf(text, sizeof(text), "type=nbd,node-name=%s,%s", node, export);
    co_option("export", text);
    return n;
}

void nbd_test_unexport(const char *id, const char *node)
{
    struct export *e = export_find(id);
    assert_non_null(e);
    co_export_del(e, board_clock_ns() + 1000000000);
    co_node_unref(node_find(node));
}

/* ---- bytes ---- */

void say(struct client *c, const void *p, size_t n)
{
    (void)co_stream_write(c->s, p, n); /* the server may have closed: hear_end looks */
}

void say8(struct client *c, uint8_t v)
{
    say(c, &v, sizeof(v));
}

void say16(struct client *c, uint16_t v)
{
    be16 b;
    be16_set(&b, v);
    say(c, &b, sizeof(b));
}

void say32(struct client *c, uint32_t v)
{
    be32 b;
    be32_set(&b, v);
    say(c, &b, sizeof(b));
}

void say64(struct client *c, uint64_t v)
{
    be64 b;
    be64_set(&b, v);
    say(c, &b, sizeof(b));
}

void say_text(struct client *c, const char *s)
{
    say32(c, (uint32_t)strlen(s));
    say(c, s, strlen(s));
}

void hear(struct client *c, void *p, size_t n)
{
    int rc = co_stream_read(c->s, p, n, board_clock_ns() + PATIENCE_NS);
    if (rc)
        fail_msg("%zu bytes expected from the server: %s", n, sr_strerror(rc));
}

uint16_t hear16(struct client *c)
{
    be16 b;
    hear(c, &b, sizeof(b));
    return be16_get(b);
}

uint32_t hear32(struct client *c)
{
    be32 b;
    hear(c, &b, sizeof(b));
    return be32_get(b);
}

uint64_t hear64(struct client *c)
{
    be64 b;
    hear(c, &b, sizeof(b));
    return be64_get(b);
}

void hear_skip(struct client *c, size_t n)
{
    assert_int_equal(co_stream_skip(c->s, n, board_clock_ns() + PATIENCE_NS), 0);
}

void hear_end(struct client *c)
{
    int rc = co_stream_wait(c->s, 1, board_clock_ns() + PATIENCE_NS);
    if (!rc)
        fail_msg("the server sent bytes where it had to close");
    assert_int_not_equal(rc, SR_ETIMEDOUT);
}

void hear_nothing(struct client *c)
{
    int rc = co_stream_wait(c->s, 1, board_clock_ns() + 20000000);
    assert_int_equal(rc, SR_ETIMEDOUT);
}

/* ---- handshake ---- */

void client_connect(struct client *c, const struct duplex_options *o)
{
    struct stream *end[2];
    duplex_open(end, o);
    *c = (struct client){.s = end[0], .server = end[1]};
    nbd_accepted(NULL, end[1]);
    assert_true(hear64(c) == NBD_INIT_MAGIC);
    assert_true(hear64(c) == NBD_OPTION_MAGIC);
    /* "The server MUST NOT set any other flags". */
    assert_int_equal(hear16(c), NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
}

void client_close(struct client *c)
{
    co_stream_close(c->s);
}

void client_hello(struct client *c, const struct duplex_options *o)
{
    client_connect(c, o);
    say32(c, NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES);
}

static void say_option_head(struct client *c, uint32_t option, uint32_t len)
{
    say64(c, NBD_OPTION_MAGIC);
    say32(c, option);
    say32(c, len);
}

void say_option(struct client *c, uint32_t option, const void *data, uint32_t len)
{
    say_option_head(c, option, len);
    if (len)
        say(c, data, len);
}

uint32_t hear_reply(struct client *c, uint32_t option, uint32_t *len)
{
    assert_true(hear64(c) == NBD_REP_MAGIC);
    assert_int_equal(hear32(c), option);
    uint32_t type = hear32(c);
    *len = hear32(c);
    return type;
}

void expect_ack(struct client *c, uint32_t option)
{
    uint32_t len;
    assert_int_equal(hear_reply(c, option, &len), NBD_REP_ACK);
    assert_int_equal(len, 0);
}

void expect_error(struct client *c, uint32_t option, uint32_t error)
{
    uint32_t len, type = hear_reply(c, option, &len);
    assert_int_equal(type, error);
    assert_in_range(len, 0, NBD_MAX_STRING);
    hear_skip(c, len);
}

void say_info(struct client *c, uint32_t option, const char *name, const int *infos)
{
    unsigned n = 0;
    while (infos && infos[n] >= 0)
        n++;
    say_option_head(c, option, (uint32_t)(4 + strlen(name) + 2 + 2 * n));
    say_text(c, name);
    say16(c, (uint16_t)n);
    for (unsigned i = 0; i < n; i++)
        say16(c, (uint16_t)infos[i]);
}

void expect_info_and_ack(struct client *c, uint32_t option)
{
    uint32_t len;
    bool told = false;
    for (;;) {
        uint32_t type = hear_reply(c, option, &len);
        if (type == NBD_REP_ACK)
            break;
        assert_int_equal(type, NBD_REP_INFO);
        assert_true(len >= 2);
        if (hear16(c) != NBD_INFO_EXPORT) {
            hear_skip(c, len - 2);
            continue;
        }
        assert_int_equal(len, 12);
        c->size = hear64(c);
        c->flags = hear16(c);
        told = true;
    }
    assert_true(told); /* "MUST send at least one NBD_REP_INFO, with an NBD_INFO_EXPORT" */
    assert_int_equal(len, 0);
    assert_true(c->flags & NBD_FLAG_HAS_FLAGS);
}

void say_meta(struct client *c, uint32_t option, const char *export, unsigned n, ...)
{
    const char *query[8];
    size_t len = 4 + strlen(export) + 4;
    va_list ap;
    va_start(ap, n);
    for (unsigned i = 0; i < n; i++) {
        query[i] = va_arg(ap, const char *);
        len += 4 + strlen(query[i]);
    }
    va_end(ap);
    say_option_head(c, option, (uint32_t)len);
    say_text(c, export);
    say32(c, n);
    for (unsigned i = 0; i < n; i++)
        say_text(c, query[i]);
}

uint32_t hear_context(struct client *c, uint32_t option)
{
    char name[64] = {0};
    uint32_t len;
    assert_int_equal(hear_reply(c, option, &len), NBD_REP_META_CONTEXT);
    uint32_t id = hear32(c);
    assert_true(len - 4 < sizeof(name));
    hear(c, name, len - 4);
    assert_string_equal(name, "base:allocation");
    return id;
}

void client_go(struct client *c, const char *name, enum mode mode, bool status, bool block_size)
{
    static const int none[] = {-1}, sizes[] = {NBD_INFO_BLOCK_SIZE, -1};
    static const uint32_t options[] = {0, NBD_OPT_STRUCTURED_REPLY, NBD_OPT_EXTENDED_HEADERS};
    c->mode = mode;
    if (mode != SIMPLE) {
        say_option(c, options[mode], NULL, 0);
        expect_ack(c, options[mode]);
    }
    if (status) {
        say_meta(c, NBD_OPT_SET_META_CONTEXT, name, 1, "base:allocation");
        assert_int_equal(hear_context(c, NBD_OPT_SET_META_CONTEXT), NBD_CONTEXT_ALLOCATION);
        expect_ack(c, NBD_OPT_SET_META_CONTEXT);
    }
    say_info(c, NBD_OPT_GO, name, block_size ? sizes : none);
    expect_info_and_ack(c, NBD_OPT_GO);
}

void client_open(struct client *c, const char *name, enum mode mode)
{
    client_hello(c, NULL);
    client_go(c, name, mode, mode != SIMPLE, false);
}

/* ---- transmission ---- */

void say_request(struct client *c, uint16_t type, uint16_t flags, uint64_t cookie, uint64_t offset,
                 uint64_t len)
{
    struct nbd_extended_request r;
    bool ext = c->mode == EXTENDED;
    be32_set(&r.head.magic, ext ? NBD_EXTENDED_REQUEST_MAGIC : NBD_REQUEST_MAGIC);
    be16_set(&r.head.flags, flags);
    be16_set(&r.head.type, type);
    memcpy(r.head.cookie, &cookie, sizeof(cookie));
    be64_set(&r.head.offset, offset);
    if (ext)
        be64_set(&r.len, len);
    else
        be32_set((be32 *)(void *)&r.len, (uint32_t)len);
    say(c, &r, ext ? sizeof(r) : sizeof(struct nbd_compact_request));
}

void say_write(struct client *c, uint16_t flags, uint64_t cookie, uint64_t offset, const void *p,
               size_t len)
{
    if (c->mode == EXTENDED)
        flags |= NBD_CMD_FLAG_PAYLOAD_LEN;
    say_request(c, NBD_CMD_WRITE, flags, cookie, offset, len);
    say(c, p, len);
}

void hear_chunk(struct client *c, struct chunk_head *h)
{
    *h = (struct chunk_head){0};
    assert_int_equal(hear32(c),
                     c->mode == EXTENDED ? NBD_EXTENDED_REPLY_MAGIC : NBD_STRUCTURED_REPLY_MAGIC);
    h->flags = hear16(c);
    h->type = hear16(c);
    hear(c, &h->cookie, sizeof(h->cookie));
    if (c->mode == EXTENDED)
        h->offset = hear64(c);
    h->len = c->mode == EXTENDED ? hear64(c) : hear32(c);
    assert_int_equal(h->flags & ~NBD_REPLY_FLAG_DONE, 0);
    if (h->type == NBD_REPLY_TYPE_NONE) {
        assert_int_equal(h->len, 0);
        assert_true(h->flags & NBD_REPLY_FLAG_DONE);
    }
}

/* The contents of an error chunk of h->len bytes. */
static uint32_t hear_error(struct client *c, const struct chunk_head *h, uint64_t *at)
{
    bool offset = h->type == NBD_REPLY_TYPE_ERROR_OFFSET;
    assert_true(h->len >= (offset ? 14 : 6));
    uint32_t error = hear32(c);
    uint16_t text = hear16(c);
    assert_int_not_equal(error, 0);
    assert_true(text <= NBD_MAX_STRING && h->len == 6u + text + (offset ? 8 : 0));
    hear_skip(c, text);
    *at = offset ? hear64(c) : UINT64_MAX;
    return error;
}

static uint32_t hear_simple(struct client *c, uint64_t cookie)
{
    uint64_t got;
    uint32_t error = hear32(c);
    hear(c, &got, sizeof(got));
    assert_true(got == cookie);
    return error;
}

uint32_t hear_status(struct client *c, uint64_t cookie, uint64_t offset)
{
    struct chunk_head h;
    uint64_t at;
    assert_int_equal(co_stream_wait(c->s, 4, board_clock_ns() + PATIENCE_NS), 0);
    if (c->mode == SIMPLE) {
        assert_int_equal(hear32(c), NBD_SIMPLE_REPLY_MAGIC);
        return hear_simple(c, cookie);
    }
    if (c->mode == STRUCTURED) { /* either is allowed, unless the request was READ */
        uint32_t magic = hear32(c);
        if (magic == NBD_SIMPLE_REPLY_MAGIC)
            return hear_simple(c, cookie);
        assert_int_equal(magic, NBD_STRUCTURED_REPLY_MAGIC);
        h.flags = hear16(c);
        h.type = hear16(c);
        hear(c, &h.cookie, sizeof(h.cookie));
        h.len = hear32(c);
    } else {
        hear_chunk(c, &h);
        assert_true(h.offset == offset);
    }
    assert_true(h.cookie == cookie);
    assert_int_equal(h.flags, NBD_REPLY_FLAG_DONE);
    if (h.type == NBD_REPLY_TYPE_NONE)
        return 0;
    assert_true(h.type == NBD_REPLY_TYPE_ERROR || h.type == NBD_REPLY_TYPE_ERROR_OFFSET);
    return hear_error(c, &h, &at);
}

static void hear_content(struct client *c, const struct chunk_head *h, uint64_t offset,
                         uint8_t *data, uint8_t *seen, size_t len)
{
    bool hole = h->type == NBD_REPLY_TYPE_OFFSET_HOLE;
    if (hole)
        assert_int_equal(h->len, 12);
    else
        assert_true(h->len >= 9);
    uint64_t at = hear64(c), n = hole ? hear32(c) : h->len - 8;
    assert_true(n > 0 && at >= offset && n <= len && at - offset <= len - n);
    for (uint64_t i = at - offset; i < at - offset + n; i++)
        assert_false(seen[i]++); /* "MUST NOT overlap" */
    if (hole)
        memset(data + (at - offset), 0, n);
    else
        hear(c, data + (at - offset), n);
}

static uint32_t hear_chunks(struct client *c, uint64_t cookie, uint64_t offset, uint8_t *data,
                            size_t len, unsigned *chunks, unsigned *holes)
{
    struct chunk_head h;
    uint32_t error = 0;
    uint64_t at;
    uint8_t *seen = calloc(1, len + 1);
    do {
        hear_chunk(c, &h);
        assert_true(h.cookie == cookie);
        if (c->mode == EXTENDED)
            assert_true(h.offset == offset);
        if (h.type & 0x8000) {
            error = hear_error(c, &h, &at);
            assert_true(at == UINT64_MAX || (at >= offset && at - offset < len));
        } else if (h.type != NBD_REPLY_TYPE_NONE) {
            hear_content(c, &h, offset, data, seen, len);
            *chunks += 1;
            *holes += h.type == NBD_REPLY_TYPE_OFFSET_HOLE;
        }
    } while (!(h.flags & NBD_REPLY_FLAG_DONE));
    if (!error)
        assert_true(!len || !memchr(seen, 0, len)); /* "MUST send enough to cover the region" */
    free(seen);
    return error;
}

uint32_t hear_read(struct client *c, uint64_t cookie, uint64_t offset, void *data, size_t len,
                   unsigned *chunks, unsigned *holes)
{
    unsigned x = 0, y = 0;
    if (c->mode != SIMPLE)
        return hear_chunks(c, cookie, offset, data, len, chunks ? chunks : &x, holes ? holes : &y);
    assert_int_equal(hear32(c), NBD_SIMPLE_REPLY_MAGIC);
    uint32_t error = hear_simple(c, cookie);
    if (!error)
        hear(c, data, len);
    return error;
}

uint32_t do_read(struct client *c, uint64_t offset, void *data, size_t len)
{
    say_request(c, NBD_CMD_READ, 0, 0x1122334455667788, offset, len);
    return hear_read(c, 0x1122334455667788, offset, data, len, NULL, NULL);
}

uint32_t do_write(struct client *c, uint16_t flags, uint64_t offset, const void *p, size_t len)
{
    say_write(c, flags, ~7ull, offset, p, len);
    return hear_status(c, ~7ull, offset);
}

uint32_t do_cmd(struct client *c, uint16_t type, uint16_t flags, uint64_t offset, uint64_t len)
{
    say_request(c, type, flags, 42, offset, len);
    return hear_status(c, 42, offset);
}

uint8_t pattern(uint64_t at)
{
    return (uint8_t)(at * 7 + (at >> 8) * 13 + (at >> 16) + 1);
}

void fill_pattern(uint8_t *p, uint64_t at, size_t n)
{
    for (size_t i = 0; i < n; i++)
        p[i] = pattern(at + i);
}
