/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef KERNEL_ERROR_H
#define KERNEL_ERROR_H
/*
 * Two kinds of error, never mixed.
 *
 * Data path: a function returns 0 or a negative code of the closed list below (positive values only
 * where its comment says so). The numbers are ours: libc's errno never crosses a boundary. One
 * table, SR_ERRORS, maps each to NBD, POSIX (Linux numbers) and its text.
 *
 * Control path: `struct error *err` is filled once, with a class (QMP's error classes) and one
 * English sentence as the storage daemon would print it (no full stop, no newline), naming node and
 * option at fault. The function also returns a negative code. The first error wins; a NULL err is
 * allowed and discards the sentence. Any context.
 */
#include "kernel/compiler.h"

/*        name        code  nbd  linux  text                                    */
#define SR_ERRORS(X)                                                           \
    X(EIO, 1, 5, 5, "Input/output error")                                      \
    X(EINVAL, 2, 22, 22, "Invalid argument")                                   \
    X(ENOMEM, 3, 12, 12, "Cannot allocate memory")                             \
    X(ENOSPC, 4, 28, 28, "No space left on device")                            \
    X(EPERM, 5, 1, 1, "Operation not permitted")                               \
    X(EROFS, 6, 1, 30, "Read-only file system")                                \
    X(ENOTSUP, 7, 95, 95, "Operation not supported")                           \
    X(EOVERFLOW, 8, 75, 75, "Value too large for defined data type")           \
    X(ESHUTDOWN, 9, 108, 108, "Cannot send after transport endpoint shutdown") \
    X(ENOENT, 10, 22, 2, "No such file or directory")                          \
    X(EEXIST, 11, 22, 17, "File exists")                                       \
    X(EBUSY, 12, 22, 16, "Device or resource busy")                            \
    X(EACCES, 13, 1, 13, "Permission denied")                                  \
    X(ETIMEDOUT, 14, 5, 110, "Connection timed out")                           \
    X(ENODEV, 15, 5, 19, "No such device")                                     \
    X(EOF, 16, 5, 5, "Unexpected end of stream")                               \
    X(EAGAIN, 17, 5, 11, "Resource temporarily unavailable")                   \
    X(ECANCELED, 18, 5, 125, "Operation canceled")                             \
    X(ERANGE, 19, 22, 34, "Numerical result out of range")                     \
    X(EADDRINUSE, 20, 22, 98, "Address already in use")

enum sr_error {
#define SR_ENUM(name, code, nbd, posix, text) SR_##name = -(code),
    SR_ERRORS(SR_ENUM)
#undef SR_ENUM
};

const char *sr_strerror(int code);  /* "Input/output error"; 0 is "Success"; never NULL */
uint32_t sr_to_nbd(int code);       /* NBD error number, 0 for 0 */
int sr_to_linux(int code);          /* positive Linux errno */
int sr_from_linux(int linux_errno); /* from a positive Linux errno; unknown numbers become SR_EIO */

enum error_class {
    ERR_GENERIC,
    ERR_COMMAND_NOT_FOUND,
    ERR_DEVICE_NOT_FOUND,
    ERR_DEVICE_NOT_ACTIVE
};

struct error {
    bool set;
    enum error_class class;
    char msg[512]; /* cut with "..." when longer */
};

/* Both set the sentence and return `code`, so that `return error_set(err, SR_EINVAL, "...", ...)`
 * is one line. */
int error_set(struct error *err, int code, const char *fmt, ...) PRINTF_LIKE(3, 4);
int error_set_class(struct error *err, enum error_class class, int code, const char *fmt, ...)
    PRINTF_LIKE(4, 5);
/* "PREFIX: old sentence". No-op when nothing is set. */
void error_prepend(struct error *err, const char *fmt, ...) PRINTF_LIKE(2, 3);
#endif
