/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The calling chain with names. The unwinder finds the frames, also on a coroutine's stack; names
 * come from the table that the build appends to the program. Test programs have none; but they are
 * built with a sanitizer, whose own printer knows more anyway.
 */
#include "boot/boot.h"
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

void board_backtrace(void)
{
    extern const char etext[];
    void *frames[MAX_FRAMES];
    char name[128], line[192];
    int n = backtrace(frames, MAX_FRAMES);
    for (int i = 1; i < n; i++) {
        uintptr_t at = (uintptr_t)frames[i] - 1; /* inside the call */
        if (at >= (uintptr_t)etext || !ksym_name(at, name, sizeof(name)))
            name[0] = 0;
        snprintf(line, sizeof(line), "  %#lx %s\n", (unsigned long)at, name);
        board_console_write(line, strlen(line));
    }
}
#endif
