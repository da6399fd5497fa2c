/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The calling chain with names. The unwinder finds the frames, also on a coroutine's stack; the names come from the table that the build appends
 * to the program (tools/mksyms.py). Test programs have an empty table: under a sanitizer, its own printer knows more anyway.
 */
#include "kernel/board.h"

#include <execinfo.h>
#include <stdio.h>
#include <string.h>

#ifdef SR_SANITIZED
#include <sanitizer/common_interface_defs.h>

void board_backtrace(void)
{
    __sanitizer_print_stack_trace();
}

#else
#define MAX_FRAMES 64

struct ksym {
    uint32_t addr, name;
};
extern const struct ksym ksyms[];
extern const uint32_t ksyms_count;
extern const char ksyms_names[];

/* Last function at or below the address; NULL: none. */
static const struct ksym *find(uintptr_t addr)
{
    uint32_t low = 0, high = ksyms_count;
    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        if (ksyms[mid].addr <= addr)
            low = mid + 1;
        else
            high = mid;
    }
    return low ? &ksyms[low - 1] : NULL;
}

void board_backtrace(void)
{
    extern const char etext[];
    void *frames[MAX_FRAMES];
    char line[160];
    int n = backtrace(frames, MAX_FRAMES);
    for (int i = 1; i < n; i++) {
        uintptr_t at = (uintptr_t)frames[i] - 1; /* inside the call */
        const struct ksym *k = at < (uintptr_t)etext ? find(at) : NULL;
        if (k)
            snprintf(line, sizeof(line), "  %#lx %s+%#lx\n", (unsigned long)at,
                     &ksyms_names[k->name], (unsigned long)(at - k->addr));
        else
            snprintf(line, sizeof(line), "  %#lx\n", (unsigned long)at);
        board_console_write(line, strlen(line));
    }
}
#endif
