/* SPDX-License-Identifier: BSD-2-Clause */
/* Error codes and sentences; console lines and the end by panic. */
#include "tests/unit/support.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "kernel/board.h"
#include "kernel/error.h"
#include "kernel/fault.h"
#include "kernel/log.h"
#include "kernel/trace.h"

static void test_codes(void **state)
{
    (void)state;
    assert_string_equal(sr_strerror(0), "Success");
    assert_string_equal(sr_strerror(SR_ENOSPC), "No space left on device");
    assert_string_equal(sr_strerror(-9999), "Input/output error");
    assert_string_equal(sr_strerror(17), "Input/output error");
    assert_string_equal(sr_strerror(INT_MIN), "Input/output error");
    assert_int_equal(sr_to_nbd(0), 0);
    assert_int_equal(sr_to_nbd(SR_EROFS), 1); /* EPERM: what NBD has for it */
    assert_int_equal(sr_to_linux(0), 0);
    assert_int_equal(sr_from_linux(0), 0);
    assert_int_equal(sr_from_linux(EXDEV), SR_EIO);
    assert_int_equal(sr_from_linux(-1), SR_EIO);
}

/* Each code survives the way to Linux and back, and the numbers are Linux's. */
static void test_table(void **state)
{
    (void)state;
#define CHECK(name, code, nbd, posix, text)            \
    assert_int_equal(sr_to_nbd(SR_##name), nbd);       \
    assert_string_equal(sr_strerror(SR_##name), text); \
    assert_int_equal(sr_to_linux(SR_##name), posix);   \
    if (SR_##name != SR_EOF)                           \
        assert_int_equal(sr_from_linux(posix), SR_##name);
    SR_ERRORS(CHECK)
    assert_int_equal(sr_to_linux(SR_ENOSPC), ENOSPC);
    assert_int_equal(sr_to_linux(SR_EADDRINUSE), EADDRINUSE);
    assert_int_equal(sr_to_linux(SR_ESHUTDOWN), ESHUTDOWN);
}

static void test_sentences(void **state)
{
    (void)state;
    struct error e = {0};
    error_prepend(&e, "nothing is set");
    assert_false(e.set);
    assert_int_equal(error_set(NULL, SR_EIO, "into the void"), SR_EIO);
    error_prepend(NULL, "into the void");
    assert_int_equal(
        error_set_class(&e, ERR_DEVICE_NOT_FOUND, SR_ENODEV, "Cannot find device='%s'", "x"),
        SR_ENODEV);
    assert_int_equal(error_set(&e, SR_EIO, "a second one"), SR_EIO);
    assert_true(e.set && e.class == ERR_DEVICE_NOT_FOUND);
    assert_string_equal(e.msg, "Cannot find device='x'");
    error_prepend(&e, "node '%s'", "n0");
    assert_string_equal(e.msg, "node 'n0': Cannot find device='x'");
}

static void test_long_sentences(void **state)
{
    (void)state;
    char text[600];
    struct error e = {0};
    memset(text, 'x', sizeof(text));
    text[511] = 0;
    error_set(&e, SR_EIO, "%s", text);
    assert_string_equal(e.msg, text); /* just fits */
    error_prepend(&e, "y");
    assert_int_equal(strlen(e.msg), 511);
    assert_memory_equal(e.msg, "y: xxx", 6);
    assert_string_equal(e.msg + 508, "...");
    e = (struct error){0};
    text[511] = 'x';
    text[512] = 0;
    error_set(&e, SR_EIO, "%s", text);
    assert_string_equal(e.msg + 507, "x...");
}

/* ---- console ---- */

static void say_lines(void *arg)
{
    static char text[5000];
    (void)arg;
    memset(text, 'z', sizeof(text) - 1);
    log_line("nbd", "client %s: %d", "one\ntwo\x1b", 7);
    log_plain("ready: %u exports", 1u);
    log_plain("%s", text);
}

static void test_lines(void **state)
{
    (void)state;
    static char said[8192];
    assert_int_equal(test_in_child(say_lines, NULL, said, sizeof(said)), 0);
    char *second = strchr(said, '\n') + 1, *third = strchr(second, '\n') + 1;
    unsigned s, us;
    int at = 0;
    assert_int_equal(sscanf(said, "[%u.%6u] %n", &s, &us, &at), 2);
    assert_memory_equal(said + at, "nbd: client one?two?: 7\n", 24);
    assert_int_equal(sscanf(second, "[%u.%6u] %n", &s, &us, &at), 2);
    assert_memory_equal(second + at, "ready: 1 exports\n", 17);
    assert_string_equal(third + strlen(third) - 5, "z...\n");
    assert_true(strlen(third) > 2000 && strlen(third) <= 2048);
}

static void say_much(void *arg)
{
    (void)arg;
    for (unsigned i = 0; i < 1000; i++)
        log_limited("peer", "noise");
}

static void test_rated(void **state)
{
    (void)state;
    static char said[65536];
    unsigned lines = 0;
    assert_int_equal(test_in_child(say_much, NULL, said, sizeof(said)), 0);
    for (const char *p = said; (p = strstr(p, "peer: noise\n")); p++)
        lines++;
    assert_true(lines >= 10 && lines <= 30); /* more only if the child takes seconds */
}

static void panics(void *arg)
{
    TRACE(nbd_request, 0xabcd, 1);
    panic("the %s is on fire", (const char *)arg);
}

static void asserts(void *arg)
{
    ASSERT(arg && "never");
}

static void leaves_with(void *arg)
{
    board_exit(*(enum board_exit *)arg);
}

static void test_endings(void **state)
{
    (void)state;
    static char said[65536], what[] = "disk";
    enum board_exit clean = BOARD_EXIT_CLEAN, config = BOARD_EXIT_CONFIG;
    assert_int_equal(test_in_child(panics, what, said, sizeof(said)), 5);
    const char *line = strstr(said, "] panic: the disk is on fire\n");
    const char *trace = strstr(said, "nbd_request 0xabcd 0x1\n");
    assert_true(line && trace && line < trace);
    test_expect_panic(asserts, NULL, "assertion failed: arg && ");
    assert_int_equal(test_in_child(leaves_with, &clean, NULL, 0), 0);
    assert_int_equal(test_in_child(leaves_with, &config, NULL, 0), 3);
}

/* ---- faults and memory ---- */

static void test_memory(void **state)
{
    (void)state;
    char *s = sr_strdup("text");
    assert_string_equal(s, "text");
    sr_free(s);
    unsigned char *z = sr_calloc(10, 10);
    for (unsigned i = 0; i < 100; i++)
        assert_int_equal(z[i], 0);
    sr_free(z);
    assert_null(sr_calloc(SIZE_MAX / 2, 3));
    sr_free(sr_malloc(0));
    sr_free(NULL);
}

#ifdef SR_FAULTS
static void test_faults(void **state)
{
    (void)state;
    fault_arm(FAULT_READ, 3, false);
    const bool once[] = {false, false, true, false, false};
    for (unsigned i = 0; i < ARRAY_LEN(once); i++)
        assert_int_equal(fault(FAULT_READ), once[i]);
    assert_int_equal(fault_asked(FAULT_READ), 5);
    assert_true(fault_fired(FAULT_READ));
    fault_arm(FAULT_READ, 2, true);
    assert_false(fault_fired(FAULT_READ));
    assert_false(fault(FAULT_READ));
    assert_false(fault(FAULT_WRITE)); /* another kind */
    assert_true(fault(FAULT_READ) && fault(FAULT_READ) && fault(FAULT_READ));
    fault_arm(FAULT_READ, 0, false);
    assert_false(fault(FAULT_READ));
    fault_arm(FAULT_ALLOC, 1, true);
    assert_null(sr_malloc(1));
    assert_null(sr_calloc(1, 1));
    assert_null(sr_strdup("x"));
    fault_arm(FAULT_ALLOC, 0, false);
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_codes),     cmocka_unit_test(test_table),
        cmocka_unit_test(test_sentences), cmocka_unit_test(test_long_sentences),
        cmocka_unit_test(test_lines),     cmocka_unit_test(test_rated),
        cmocka_unit_test(test_endings),   cmocka_unit_test(test_memory),
#ifdef SR_FAULTS
        cmocka_unit_test(test_faults),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
