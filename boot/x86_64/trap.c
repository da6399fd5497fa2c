/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Exceptions. Every one is a bug of ours (or broken hardware): print what is known, then panic().
 *
 * Each runs on a stack from the task state's interrupt stack table, so that an overflowed stack can
 * still report itself: entry 1 for ordinary exceptions, entry 2 for NMI, double fault and machine
 * check; both with an unmapped page below. An exception inside the report comes in on the same
 * stack again and overwrites the first report's frames: it prints one line and leaves, and never
 * returns to them. Text goes straight to the console, without the C library, up to panic() itself.
 */
#include "boot/boot.h"
#include "boot/trap.h"
#include "boot/vm.h"
#include "boot/x86_64/cpu.h"
#include "kernel/board.h"
#include "kernel/log.h"

struct trap_frame { /* as vectors.S pushes it */
    uint64_t r15, r14, r13, r12, r11, r10, r9, r8, rbp, rdi, rsi, rdx, rcx, rbx, rax;
    uint64_t vector, error;
    uint64_t rip, cs, rflags, rsp, ss; /* by the processor */
};
struct task_state {
    uint32_t reserved0;
    uint64_t rsp[3], reserved1, ist[7], reserved2;
    uint16_t reserved3, iomap;
} __attribute__((packed));
static_assert(sizeof(struct task_state) == 104, "");
struct gate {
    uint16_t offset_low, selector;
    uint8_t ist, type;
    uint16_t offset_mid;
    uint32_t offset_high, reserved;
};
static_assert(sizeof(struct gate) == 16, "");

enum { EXC_NMI = 2, EXC_DOUBLE_FAULT = 8, EXC_PAGE_FAULT = 14, EXC_MACHINE_CHECK = 18 };
enum { CODE_SELECTOR = 8, TSS_SELECTOR = 0x18, GATE_INTERRUPT = 0x8e, TSS_AVAILABLE = 0x89 };

static struct task_state task_state;
static struct gate idt[256];
static unsigned depth;

static const char *const exception_names[32] = {
    "divide error",
    "debug exception",
    "NMI",
    "breakpoint",
    "overflow",
    "bound range exceeded",
    "invalid opcode",
    "device not available",
    "double fault",
    "coprocessor overrun",
    "invalid TSS",
    "segment not present",
    "stack fault",
    "general protection fault",
    "page fault",
    "vector 15",
    "x87 error",
    "alignment check",
    "machine check",
    "SIMD error",
    "virtualization exception",
    "control protection",
    "vector 22",
    "vector 23",
    "vector 24",
    "vector 25",
    "vector 26",
    "vector 27",
    "hypervisor injection",
    "VMM communication",
    "security exception",
    "vector 31",
};

static void say_registers(const struct trap_frame *f)
{
    static const char *const names[15] = {"r15 ",  " r14 ", " r13 ", "r12 ",  " r11 ",
                                          " r10 ", "r9  ",  " r8  ", " rbp ", "rdi ",
                                          " rsi ", " rdx ", "rcx ",  " rbx ", " rax "};
    for (unsigned i = 0; i < 15; i++) {
        trap_say_hex(names[i], (&f->r15)[i]);
        if (i % 3 == 2)
            trap_say("\n");
    }
    trap_say_hex("rip ", f->rip);
    trap_say_hex(" rsp ", f->rsp);
    trap_say_hex(" rflags ", f->rflags);
    trap_say_hex("\nerror ", f->error);
    trap_say_hex(" cr2 ", read_cr2());
    trap_say_hex(" cr3 ", read_cr3());
    trap_say("\n");
}

/* The name of the code at rip; nothing when it is not code of ours. */
static const char *name_of(uint64_t rip, char *buf, size_t size)
{
    buf[0] = 0;
    if (rip >= (uintptr_t)__image_start && rip < (uintptr_t)__text_end)
        ksym_name(rip, buf, size);
    return buf;
}

static NORETURN void page_fault(const struct trap_frame *f)
{
    uint64_t va = read_cr2();
    const char *how = f->error & 16 ? "execution of" : f->error & 2 ? "write to" : "read of";
    char where[80];
    panic("page fault: %s 0x%llx: %s, at 0x%llx %s", how, (unsigned long long)va, vm_describe(va),
          (unsigned long long)f->rip, name_of(f->rip, where, sizeof(where)));
}

NORETURN void arch_exception(const struct trap_frame *f);
NORETURN void arch_exception(const struct trap_frame *f)
{
    const char *name = exception_names[f->vector & 31];
    if (depth++) {
        if (depth == 2) { /* else: even the console is broken */
            trap_say("\npanic: ");
            trap_say(name);
            trap_say_hex(" while reporting, at ", f->rip);
            trap_say_hex(", cr2 ", read_cr2());
            trap_say("\n");
        }
        board_exit(BOARD_EXIT_PANIC);
    }
    trap_stack = (const uint64_t *)(uintptr_t)f->rsp;
    trap_say("\nexception: ");
    trap_say(name);
    trap_say("\n");
    say_registers(f);
    if (f->vector == EXC_PAGE_FAULT)
        page_fault(f);
    char where[80];
    panic("%s (error 0x%llx) at 0x%llx %s", name, (unsigned long long)f->error,
          (unsigned long long)f->rip, name_of(f->rip, where, sizeof(where)));
}

/* Is `a` the address behind a call? e8 rel32, or ff /2 with 0 to 5 more bytes. */
bool arch_return_address(uint64_t a)
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

static void set_gate(unsigned vector, const char *handler, unsigned ist)
{
    uint64_t a = (uintptr_t)handler;
    idt[vector] = (struct gate){
        .offset_low = (uint16_t)a,
        .offset_mid = (uint16_t)(a >> 16),
        .offset_high = (uint32_t)(a >> 32),
        .selector = CODE_SELECTOR,
        .ist = (uint8_t)ist,
        .type = GATE_INTERRUPT,
    };
}

void trap_set_vector(unsigned vector, const char *handler)
{
    set_gate(vector, handler, 0);
}

void trap_init(void)
{
    uint64_t tss = (uintptr_t)&task_state;
    task_state.ist[0] = (uintptr_t)trap_stack_top;
    task_state.ist[1] = (uintptr_t)boot_stack_top;
    task_state.iomap = sizeof(task_state);
    gdt[3] = (sizeof(task_state) - 1) | (tss & 0xffffff) << 16 | (uint64_t)TSS_AVAILABLE << 40 |
             (tss >> 24 & 0xff) << 56;
    gdt[4] = tss >> 32;
    __asm__ volatile("ltr %w0" : : "r"(TSS_SELECTOR));

    for (unsigned i = 0; i < 32; i++) {
        bool other = i == EXC_NMI || i == EXC_DOUBLE_FAULT || i == EXC_MACHINE_CHECK;
        set_gate(i, exception_stubs + 16 * i, other ? 2 : 1);
    }
    struct gdt_pointer p = {sizeof(idt) - 1, (uintptr_t)idt};
    __asm__ volatile("lidt %0" : : "m"(p));
}
