/* SPDX-License-Identifier: BSD-2-Clause */
#include "kernel/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const struct row {
    uint16_t nbd, linux_errno;
    const char *text;
} rows[] = {[0] = {0, 0, "Success"},
#define ROW(name, code, nbd, posix, text) [code] = {nbd, posix, text},
            SR_ERRORS(ROW)
#undef ROW
};

/* Codes that are none of ours are I/O errors. */
static const struct row *row(int code)
{
    unsigned i = code <= 0 ? 0u - (unsigned)code : 0u + -SR_EIO;
    return i < ARRAY_LEN(rows) && rows[i].text ? &rows[i] : &rows[-SR_EIO];
}

const char *sr_strerror(int code)
{
    return row(code)->text;
}

uint32_t sr_to_nbd(int code)
{
    return row(code)->nbd;
}

int sr_to_linux(int code)
{
    return row(code)->linux_errno;
}

int sr_from_linux(int linux_errno)
{
    for (unsigned i = 0; i < ARRAY_LEN(rows); i++)
        if (rows[i].text && rows[i].linux_errno == linux_errno)
            return -(int)i;
    return SR_EIO;
}

static void cut(struct error *err, int len)
{
    if (len >= (int)sizeof(err->msg))
        memcpy(err->msg + sizeof(err->msg) - 4, "...", 4);
}

static int vset(struct error *err, enum error_class class, int code, const char *fmt, va_list ap)
    PRINTF_LIKE(4, 0);
static int vset(struct error *err, enum error_class class, int code, const char *fmt, va_list ap)
{
    if (err && !err->set) {
        err->set = true;
        err->class = class;
        cut(err, vsnprintf(err->msg, sizeof(err->msg), fmt, ap));
    }
    return code;
}

int error_set(struct error *err, int code, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vset(err, ERR_GENERIC, code, fmt, ap);
    va_end(ap);
    return code;
}

int error_set_class(struct error *err, enum error_class class, int code, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vset(err, class, code, fmt, ap);
    va_end(ap);
    return code;
}

void error_prepend(struct error *err, const char *fmt, ...)
{
    char old[sizeof(err->msg)];
    if (!err || !err->set)
        return;
    memcpy(old, err->msg, sizeof(old));
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(err->msg, sizeof(err->msg), fmt, ap);
    va_end(ap);
    if (n >= 0 && n < (int)sizeof(err->msg))
        n += snprintf(err->msg + n, sizeof(err->msg) - (size_t)n, ": %s", old);
    cut(err, n);
}
