/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The calling chain without frame pointers: walk up the stack and print every word that points
 * behind a call instruction in our code. Old return addresses that nobody has overwritten show up
 * too; that is the price, and nothing is missed. Each page is looked up before it is read, so a
 * wild stack pointer or a guard page ends the walk.
 */
#include "boot/arch.h"
#include "boot/boot.h"
#include "boot/trap.h"
#include "boot/vm.h"
#include "kernel/board.h"

#define MAX_WORDS  4096u
#define MAX_FRAMES 32u

const uint64_t *trap_stack;
uint64_t trap_link;

static void print_frame(uint64_t a)
{
    char line[128] = "  0x";
    size_t n = 4;
    for (int shift = a >> 32 ? 60 : 28; shift >= 0; shift -= 4)
        line[n++] = "0123456789abcdef"[a >> shift & 15];
    line[n++] = ' ';
    ksym_name(a - 1, line + n, sizeof(line) - n - 1); /* the call, not what follows it */
    while (line[n])
        n++;
    line[n++] = '\n';
    board_console_write(line, n);
}

void board_backtrace(void)
{
    const uint64_t *sp = trap_stack ? trap_stack : arch_sp();
    uint64_t a = align_up((uintptr_t)sp, 8);
    unsigned frames = 0;
    uint64_t link = trap_link;
    if (link && arch_return_address(link))
        print_frame(link);
    for (unsigned i = 0; i < MAX_WORDS && frames < MAX_FRAMES; i++, a += 8) {
        if ((!i || !(a & 4095)) && !vm_readable(a))
            break;
        uint64_t word = *(const uint64_t *)(uintptr_t)a;
        if (word != link && arch_return_address(word)) {
            print_frame(word);
            frames++;
        }
        link = word == link ? 0 : link; /* a function that saved it says so once */
    }
}
