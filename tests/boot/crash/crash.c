/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Only in strongroom-crash.elf, which the boot tests start: `--x-crash kind=...` does what must
 * never go unnoticed, from a coroutine. What follows is a readable panic and status 5, or the test
 * has failed: a line "survived" says that the access went through.
 */
#include <string.h>

#include "boot/arch.h"
#include "kernel/command.h"
#include "kernel/kernel.h"

static const char *const kinds[] = {"null-read", "null-write", "text-write",  "rodata-write",
                                    "data-exec", "heap-exec",  "guard",       "divide",
                                    "undefined", "assert",     "linear-hole", NULL};
enum {
    NULL_READ,
    NULL_WRITE,
    TEXT_WRITE,
    RODATA_WRITE,
    DATA_EXEC,
    HEAP_EXEC,
    GUARD,
    DIVIDE,
    UNDEFINED,
    ASSERT_FALSE,
    LINEAR_HOLE
};

struct crash_options {
    int kind;
};
static const struct type type_kind = TYPE_ENUM_OF("CrashKind", kinds);
static const struct field fields[] = {
    FIELD_REQ(struct crash_options, kind, "kind", &type_kind, "What to do"),
    {0},
};
static const struct type type_crash = TYPE_STRUCT_OF("CrashOptions", struct crash_options, fields);

static uint8_t code_in_data[16] = {0xc3}; /* ret */
static const int constant = 1;
static volatile int zero;

static void write_to(const void *p)
{
    *(volatile uint8_t *)(uintptr_t)p = 1;
}

static void call(const void *p)
{
    ((void (*)(void))(uintptr_t)p)();
}

/* Down into the page below this coroutine's stack. */
static void overflow_stack(void)
{
    for (uintptr_t p = (uintptr_t)arch_sp();; p -= 1024)
        write_to((void *)p);
}

static void run_into_it(int kind)
{
    void *heap;
    switch (kind) {
    case NULL_READ:
        zero = *(volatile int *)(uintptr_t)(zero + 8);
        break;
    case NULL_WRITE:
        write_to((void *)(uintptr_t)(zero + 16));
        break;
    case TEXT_WRITE:
        write_to((void *)(uintptr_t) co_yield );
        break;
    case RODATA_WRITE:
        write_to(&constant);
        break;
    case DATA_EXEC:
        call(code_in_data);
        break;
    case HEAP_EXEC:
        heap = page_alloc(PAGE_SIZE);
        memset(heap, 0xc3, PAGE_SIZE);
        call(heap);
        break;
    case GUARD:
        overflow_stack();
        break;
    case DIVIDE:
        zero = 77 / zero;
        break;
    case UNDEFINED:
        __builtin_trap();
        break;
    case ASSERT_FALSE:
        ASSERT(zero == 1);
        break;
    case LINEAR_HOLE:
        write_to((void *)(uintptr_t)(ARCH_LINEAR_BASE + (1ull << 45)));
        break;
    }
}

static int co_crash(const void *opts, const struct value *raw, bool text, struct error *err)
{
    const struct crash_options *o = opts;
    (void)raw, (void)text;
    run_into_it(o->kind);
    log_line("crash", "survived");
    return error_set(err, SR_EIO, "survived %s", kinds[o->kind]);
}
static const struct option_def option_crash = {
    .name = "x-crash",
    .type = &type_crash,
    .implied = "kind",
    .co_apply = co_crash,
    .doc = "Crash on purpose",
};
REGISTER(option, option_crash);
