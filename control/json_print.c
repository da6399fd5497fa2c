/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Value trees as JSON text. Pure ASCII: other characters are escaped, as surrogate pairs where they need two, and bytes that are not
 * UTF-8 (an image's header may hold them) come out as U+FFFD. A text that grew out of memory stays empty from then on and the whole
 * fails at the end.
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "control/json.h"
#include "kernel/fault.h"

struct text {
    char *p;
    size_t len, room;
    bool failed, pretty;
};

static void put(struct text *t, const char *s, size_t n)
{
    if (n >= t->room - t->len && !t->failed) {
        size_t room = (t->room + n) * 2 + 128;
        char *p = sr_malloc(room);
        t->failed = !p;
        if (p) {
            memcpy(p, t->p ? t->p : "", t->len);
            sr_free(t->p);
            t->p = p;
            t->room = room;
        }
    }
    if (t->failed)
        return;
    memcpy(t->p + t->len, s, n);
    t->len += n;
    t->p[t->len] = 0;
}

static void put_str(struct text *t, const char *s)
{
    put(t, s, strlen(s));
}

static void put_format(struct text *t, const char *fmt, ...) PRINTF_LIKE(2, 3);
static void put_format(struct text *t, const char *fmt, ...)
{
    char buf[40]; /* the longest: a double of 17 digits */
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(buf, sizeof(buf), fmt, ap);
    va_end(ap);
    put_str(t, buf);
}

/* The code point at s and its length in *n; U+FFFD and 1 when that is not UTF-8. */
static uint32_t code_point(const unsigned char *s, size_t *n)
{
    static const uint32_t least[] = {0, 0x80, 0x800, 0x10000};
    size_t more = *s < 0x80 ? 0 : *s < 0xc2 ? 4 : *s < 0xe0 ? 1 : *s < 0xf0 ? 2 : *s < 0xf5 ? 3 : 4;
    uint32_t cp = more ? *s & (0x3fu >> more) : *s;
    *n = 1;
    if (more > 3)
        return 0xfffd;
    for (size_t i = 1; i <= more; i++) {
        if ((s[i] & 0xc0) != 0x80)
            return 0xfffd;
        cp = cp << 6 | (s[i] & 0x3f);
    }
    if (cp < least[more] || cp > 0x10ffff || (cp >= 0xd800 && cp < 0xe000))
        return 0xfffd;
    *n = more + 1;
    return cp;
}

static void put_escaped(struct text *t, uint32_t cp)
{
    static const char plain[] = "\"\\\b\f\n\r\t", letter[] = "\"\\bfnrt";
    const char *p = cp && cp < 0x80 ? strchr(plain, (int)cp) : NULL;
    if (p)
        put_format(t, "\\%c", letter[p - plain]);
    else if (cp > 0xffff)
        put_format(t, "\\u%04X\\u%04X", (unsigned)(0xd800 + ((cp - 0x10000) >> 10)),
                   (unsigned)(0xdc00 + (cp & 0x3ff)));
    else
        put_format(t, "\\u%04X", (unsigned)cp);
}

static void put_string(struct text *t, const char *string)
{
    const unsigned char *s = (const unsigned char *)string;
    put_str(t, "\"");
    while (*s) {
        size_t n = 0;
        while (s[n] >= 0x20 && s[n] < 0x7f && s[n] != '"' && s[n] != '\\')
            n++;
        put(t, (const char *)s, n);
        s += n;
        if (*s) {
            put_escaped(t, code_point(s, &n));
            s += n;
        }
    }
    put_str(t, "\"");
}

static void put_break(struct text *t, unsigned level)
{
    if (!t->pretty)
        return;
    put_str(t, "\n");
    while (level--)
        put_str(t, "    ");
}

static void put_value(struct text *t, const struct value *v, unsigned level);

static void put_container(struct text *t, const struct value *v, unsigned level)
{
    bool dict = value_kind(v) == VALUE_DICT;
    put_str(t, dict ? "{" : "[");
    for (size_t i = 0; i < value_count(v); i++) {
        if (i)
            put_str(t, t->pretty ? "," : ", ");
        put_break(t, level + 1);
        if (dict) {
            put_string(t, value_key_at(v, i));
            put_str(t, ": ");
        }
        put_value(t, value_at(v, i), level + 1);
    }
    if (value_count(v))
        put_break(t, level);
    put_str(t, dict ? "}" : "]");
}

static void put_value(struct text *t, const struct value *v, unsigned level)
{
    switch (value_kind(v)) {
    case VALUE_NULL:
        return put_str(t, "null");
    case VALUE_BOOL:
        return put_str(t, value_get_bool(v) ? "true" : "false");
    case VALUE_INT:
        return put_format(t, "%lld", (long long)value_get_int(v));
    case VALUE_UINT:
        return put_format(t, "%llu", (unsigned long long)value_get_uint(v));
    case VALUE_DOUBLE:
        return put_format(t, "%.17g", value_get_double(v));
    case VALUE_STR:
        return put_string(t, value_get_str(v));
    default:
        return put_container(t, v, level);
    }
}

char *json_print(const struct value *v, bool pretty, size_t *len)
{
    struct text t = {.pretty = pretty};
    put_value(&t, v, 0);
    if (t.failed) {
        sr_free(t.p);
        return NULL;
    }
    *len = t.len;
    return t.p;
}
