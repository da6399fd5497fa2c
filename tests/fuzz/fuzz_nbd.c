/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What an NBD client can say. The first byte of an input chooses how far a valid handshake goes
 * before the rest is said as it is, how the bytes are portioned, and how the connection ends:
 *
 *     bits 0-1: nothing | GO, simple | structured, base:allocation, GO | extended, the same
 *     bits 2-3: received in segments of 1460, 1, 13, 65536 bytes
 *     bit 4: reset instead of close        bit 5: do not read any reply
 *
 * After each input everything must be as before: no connection, every pool whole.
 */
#include "tests/unit/support_duplex.c"

#include "blk/blk.h"
#include "kernel/command.h"
#include "kernel/kernel.h"
#include "net/nbd/nbd.h"
#include "tests/fuzz/support_boot.h"

#define MAX_POOLS 64
#define TURNS     2000000

struct input {
    const uint8_t *p;
    size_t n;
    bool done;
};

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
            panic("--%s %s: %s", name, text, err.msg);
        return;
    }
    panic("no option --%s", name);
}

/* ---- what a client says first ---- */

static void say(struct stream *s, const void *p, size_t n)
{
    (void)co_stream_write(s, p, n);
}

static void say_option(struct stream *s, uint32_t option, const void *data, uint32_t n)
{
    struct nbd_option_header h;
    be64_set(&h.magic, NBD_OPTION_MAGIC);
    be32_set(&h.option, option);
    be32_set(&h.len, n);
    say(s, &h, sizeof(h));
    say(s, data, n);
}

static void co_say_handshake(struct stream *s, unsigned kind)
{
    static const char meta[] = "\0\0\0\1x\0\0\0\1\0\0\0\17base:allocation", go[] = "\0\0\0\1x\0\0";
    static const char flags[] = "\0\0\0\3";
    if (!kind)
        return;
    say(s, flags, 4);
    if (kind > 1) {
        say_option(s, kind == 2 ? NBD_OPT_STRUCTURED_REPLY : NBD_OPT_EXTENDED_HEADERS, NULL, 0);
        say_option(s, NBD_OPT_SET_META_CONTEXT, meta, sizeof(meta) - 1);
    }
    say_option(s, NBD_OPT_GO, go, sizeof(go) - 1);
}

static void co_read_all(struct stream *s)
{
    while (!co_stream_wait(s, 1, board_clock_ns() + 200000))
        (void)co_stream_skip(s, s->ops->available(s), STREAM_FOREVER);
}

static void co_one(void *arg)
{
    static const size_t segments[] = {1460, 1, 13, 65536};
    struct input *in = arg;
    unsigned how = in->n ? in->p[0] : 0;
    struct duplex_options o = {.segment = segments[how >> 2 & 3], .queue = 1u << 30};
    struct stream *end[2];
    duplex_open(end, &o);
    nbd_accepted(NULL, end[1]);
    co_say_handshake(end[0], how & 3);
    if (in->n)
        say(end[0], in->p + 1, in->n - 1);
    if (how & 32)
        duplex_stall(end[1], true);
    co_read_all(end[0]);
    if (how & 16)
        stream_abort(end[0]);
    co_stream_close(end[0]);
    while (duplex_ends)
        co_reschedule();
    in->done = true;
}

/* ---- running it ---- */

static void run(co_fn *fn, struct input *in)
{
    static struct co_start start;
    in->done = false;
    co_start(&start, fn, in);
    for (unsigned i = 0; !in->done; i++) {
        if (i > TURNS)
            panic("the connection did not end");
        loop_turn();
    }
    loop_turn();
}

static void co_setup(void *arg)
{
    struct input *in = arg;
    co_option("nbd-server", "addr.type=unix,addr.path=/nowhere,handshake-max-seconds=0");
    co_option("blockdev", "driver=null-co,node-name=n,size=512k,read-zeroes=on");
    co_option("export", "type=nbd,id=e,node-name=n,name=x,writable=on,description=y");
    in->done = true;
}

static unsigned free_objects(void)
{
    unsigned n = 0;
    registry_for_each (pool, p)
        n += (*p)->free;
    return n;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    struct input in = {0};
    (void)argc, (void)argv;
    fuzz_boot(160);
    run(co_setup, &in);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    struct input in = {.p = p, .n = n};
    unsigned before = free_objects();
    run(co_one, &in);
    if (free_objects() != before)
        panic("%u objects of pools did not come back", before - free_objects());
    return 0;
}
