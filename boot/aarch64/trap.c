/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Exceptions. Every one is a bug of ours (or broken hardware): print what is known, then panic().
 * The one that is expected is the answer of a machine without semihosting to the question for it.
 *
 * They run on a stack of their own (vectors.S). An exception inside the report comes in on the same
 * stack again and overwrites the first report's frames: it prints one line and leaves, and never
 * returns to them. Text goes straight to the console, without the C library, up to panic() itself.
 *
 * Source: Arm ARM D17.2.37 (ESR_EL1).
 */
#include "boot/boot.h"
#include "boot/trap.h"
#include "boot/vm.h"
#include "boot/aarch64/cpu.h"
#include "kernel/board.h"
#include "kernel/log.h"

struct trap_frame { /* as vectors.S stores it */
    uint64_t x[31], sp, elr, spsr, esr, far, vector;
};

enum exception_class {
    EC_UNKNOWN = 0x00,
    EC_FLOATING_POINT = 0x07,
    EC_ILLEGAL_STATE = 0x0e,
    EC_INSTRUCTION_ABORT = 0x21,
    EC_PC_ALIGNMENT = 0x22,
    EC_DATA_ABORT = 0x25,
    EC_SP_ALIGNMENT = 0x26,
    EC_BRK = 0x3c,
};
enum { ISS_WRITE = 1 << 6, FAULT_ALIGNMENT = 0x21 };

static unsigned depth;

static void say_registers(const struct trap_frame *f)
{
    char name[] = " x00 ";
    for (unsigned i = 0; i < 31; i++) {
        name[2] = (char)('0' + i / 10);
        name[3] = (char)('0' + i % 10);
        trap_say_hex(name, f->x[i]);
        if (i % 3 == 2)
            trap_say("\n");
    }
    trap_say_hex("  sp ", f->sp);
    trap_say_hex("\n  pc ", f->elr);
    trap_say_hex(" esr ", f->esr);
    trap_say_hex(" far ", f->far);
    trap_say_hex(" psr ", f->spsr);
    trap_say("\n");
}

static const char *exception_name(const struct trap_frame *f)
{
    static const char *const others[4] = {"", "interrupt", "fast interrupt", "system error"};
    if (f->vector & 3)
        return others[f->vector & 3];
    switch (f->esr >> 26 & 0x3f) {
    case EC_UNKNOWN:
        return "invalid opcode";
    case EC_FLOATING_POINT:
        return "floating point trapped";
    case EC_ILLEGAL_STATE:
        return "illegal state";
    case EC_INSTRUCTION_ABORT:
    case EC_DATA_ABORT:
        return "memory abort";
    case EC_PC_ALIGNMENT:
        return "misaligned program counter";
    case EC_SP_ALIGNMENT:
        return "misaligned stack pointer";
    case EC_BRK:
        return "breakpoint";
    default:
        return "exception";
    }
}

/* The name of the code at pc; nothing when it is not code of ours. */
static const char *name_of(uint64_t pc, char *buf, size_t size)
{
    buf[0] = 0;
    if (pc >= (uintptr_t)__image_start && pc < (uintptr_t)__text_end)
        ksym_name(pc, buf, size);
    return buf;
}

/* Translation, access flag and permission faults of the four levels: 000100 to 001111. */
static bool is_page_fault(unsigned status)
{
    return status >= 4 && status < 16;
}

static NORETURN void memory_abort(const struct trap_frame *f, bool fetch)
{
    const char *how = fetch ? "execution of" : f->esr & ISS_WRITE ? "write to" : "read of";
    unsigned status = f->esr & 0x3f;
    const char *what = is_page_fault(status)       ? "page fault"
                       : status == FAULT_ALIGNMENT ? "misaligned access"
                                                   : "bus error";
    char where[80];
    panic("%s: %s 0x%llx: %s, at 0x%llx %s", what, how, (unsigned long long)f->far,
          vm_describe(f->far), (unsigned long long)f->elr, name_of(f->elr, where, sizeof(where)));
}

NORETURN void arch_exception(const struct trap_frame *f);
NORETURN void arch_exception(const struct trap_frame *f)
{
    if (f->elr == (uintptr_t)semihosting_call)
        semihosting_missing();
    const char *name = exception_name(f);
    if (depth++) {
        if (depth == 2) { /* else: even the console is broken */
            trap_say("\npanic: ");
            trap_say(name);
            trap_say_hex(" while reporting, at ", f->elr);
            trap_say_hex(", far ", f->far);
            trap_say("\n");
        }
        board_exit(BOARD_EXIT_PANIC);
    }
    trap_stack = (const uint64_t *)(uintptr_t)f->sp;
    trap_link = f->x[30];
    trap_say("\nexception: ");
    trap_say(name);
    trap_say("\n");
    say_registers(f);
    unsigned class = f->esr >> 26 & 0x3f;
    if (!(f->vector & 3) && (class == EC_INSTRUCTION_ABORT || class == EC_DATA_ABORT))
        memory_abort(f, class == EC_INSTRUCTION_ABORT);
    char where[80];
    panic("%s (esr 0x%llx) at 0x%llx %s", name, (unsigned long long)f->esr,
          (unsigned long long)f->elr, name_of(f->elr, where, sizeof(where)));
}

/* Is `a` the address behind a call, bl or blr? */
bool arch_return_address(uint64_t a)
{
    if (a <= (uintptr_t)__image_start || a > (uintptr_t)__text_end || a & 3)
        return false;
    uint32_t call = *(const uint32_t *)(uintptr_t)(a - 4);
    return call >> 26 == 0x25 || (call & 0xfffffc1f) == 0xd63f0000;
}
