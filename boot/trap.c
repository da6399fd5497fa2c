/* SPDX-License-Identifier: BSD-2-Clause */
/* Text of exception reports; see trap.h. */
#include "boot/trap.h"
#include "kernel/board.h"

void trap_say(const char *s)
{
    size_t n = 0;
    while (s[n])
        n++;
    board_console_write(s, n);
}

void trap_say_hex(const char *name, uint64_t v)
{
    char text[19] = "0x";
    for (unsigned i = 0; i < 16; i++)
        text[2 + i] = "0123456789abcdef"[v >> (60 - 4 * i) & 15];
    trap_say(name);
    board_console_write(text, 18);
}
