/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The calling chain without frame pointers: walk up the stack and print every word that points
 * behind a call instruction in our code. Old return addresses that nobody has overwritten show up
 * too; that is the price, and nothing is missed. Each page is looked up before it is read, so a
 * wild stack pointer or a guard page ends the walk.
 */
#include "boot/arch.h"
#include "boot/boot.h"
#include "boot/x86_64/cpu.h"
#include "kernel/board.h"

#define MAX_WORDS  4096u
#define MAX_FRAMES 32u

static bool readable(uint64_t va)
{
    unsigned level;
    return vm_lookup(va, &level) & VM_PRESENT;
}

/* Is `a` the address behind a call? e8 rel32, or ff /2 with 0 to 5 more bytes. */
static bool return_address(uint64_t a)
{
    const uint8_t *text = (const uint8_t *)__image_start, *p = (const uint8_t *)(uintptr_t)a;
    if (a < (uintptr_t)text + 8 || a > (uintptr_t)__text_end)
        return false;
    if (p[-5] == 0xe8)
        return true;
    for (int n = 2; n <= 7; n++)
        if (p[-n] == 0xff && (p[1 - n] & 0x38) == 0x10)
            return true;
    return false;
}

static void print_frame(uint64_t a)
{
    char line[128] = "  0x";
    size_t n = 4;
    for (int shift = 28; shift >= 0; shift -= 4)
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
    for (unsigned i = 0; i < MAX_WORDS && frames < MAX_FRAMES; i++, a += 8) {
        if ((!i || !(a & 4095)) && !readable(a))
            break;
        uint64_t word = *(const uint64_t *)(uintptr_t)a;
        if (return_address(word)) {
            print_frame(word);
            frames++;
        }
    }
}
