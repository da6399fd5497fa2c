/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a QMP client can say. The first byte of an input chooses what goes before it and how it
 * arrives:
 *
 *     bit 0: qmp_capabilities is said first
 *     bits 1-2: received in segments of 1460, 1, 13, 65536 bytes
 *     bit 3: reset instead of close        bit 4: do not read any reply
 *
 * Replies must be JSON by our own parser. After each input no monitor and no stream is left. Inputs
 * that could say quit are passed over: it works only once.
 */
#include "tests/unit/support_duplex.c"

#include "control/json.h"
#include "control/qmp.h"
#include "kernel/kernel.h"
#include "tests/fuzz/support_boot.h"

struct input {
    const uint8_t *p;
    size_t n;
    bool done;
};

static bool could_quit(const struct input *in)
{
    static const char *const words[] = {"quit", "\\u0071", "\\u0075", "\\u0069", "\\u0074"};
    for (size_t i = 0; i < ARRAY_LEN(words); i++)
        if (memmem(in->p, in->n, words[i], strlen(words[i])))
            return true;
    return false;
}

static void check_replies(struct json_lexer *l, const char *p, size_t n)
{
    for (size_t at = 0; at < n;) {
        struct error err = {0};
        struct value *v;
        at += json_feed(l, p + at, n - at, &v, &err);
        if (err.set)
            panic("reply: %s", err.msg);
        if (v && value_kind(v) != VALUE_DICT)
            panic("a reply is no object");
        value_free(v);
    }
}

/* Reads what is there, until there has been nothing for some turns. */
static void co_read_replies(struct stream *s)
{
    struct json_lexer l;
    char text[512];
    json_lexer_init(&l);
    for (unsigned quiet = 0; quiet < 50; quiet++) {
        size_t n = MIN(s->ops->available(s), sizeof(text));
        if (!n) {
            co_reschedule();
            continue;
        }
        s->ops->copy(s, text, n, true);
        check_replies(&l, text, n);
        quiet = 0;
    }
    json_lexer_free(&l);
}

static void co_one(void *arg)
{
    static const char hello[] = "{\"execute\": \"qmp_capabilities\"}";
    static const size_t segments[] = {0, 1, 13, 65536};
    struct input *in = arg;
    unsigned how = in->n ? in->p[0] : 0;
    struct stream *end[2];
    duplex_open(end, &(struct duplex_options){.segment = segments[how >> 1 & 3]});
    qmp_serve(end[1], false);
    if (how & 1)
        (void)co_stream_write(end[0], hello, strlen(hello));
    if (in->n > 1)
        (void)co_stream_write(end[0], in->p + 1, in->n - 1);
    if (!(how & 16))
        co_read_replies(end[0]);
    if (how & 8)
        stream_abort(end[0]);
    co_stream_close(end[0]);
    while (qmp_monitors() || duplex_ends)
        co_reschedule();
    in->done = true;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    fuzz_boot(32);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    struct input in = {.p = p, .n = n};
    if (could_quit(&in))
        return 0;
    fuzz_run(co_one, &in, &in.done);
    return 0;
}
