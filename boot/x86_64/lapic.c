/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Interrupts: the local APIC, the I/O APICs, and irq.h on top of them.
 *
 * No handler does anything, so vectors need not be told apart: they are handed out one by one for
 * the sake of readable registers, and when they run out the last one is shared. Lines and messages
 * all go to the boot core, the only one that runs a loop today.
 *
 * Sources: Intel SDM volume 3 chapter 11 (local APIC, messages), 82093AA datasheet (I/O APIC).
 */
#include "boot/boot.h"
#include "boot/x86_64/cpu.h"
#include "kernel/board.h"
#include "kernel/error.h"
#include "kernel/irq.h"
#include "kernel/log.h"
#include "kernel/page.h"
#include "kernel/pci.h"

#define MSR_APIC_BASE    0x1bu
#define APIC_BASE_X2     (1u << 10)
#define APIC_BASE_ENABLE (1u << 11)
#define MSR_X2APIC       0x800u
#define MSR_TSC_DEADLINE 0x6e0u
#define IOAPIC_DEFAULT   0xfec00000u
#define MAX_IOAPICS      8u

enum lapic_register {
    LAPIC_ID = 0x20,
    LAPIC_TPR = 0x80,
    LAPIC_SVR = 0xf0,
    LAPIC_ICR = 0x300,
    LAPIC_ICR_HIGH = 0x310,
    LAPIC_LVT_TIMER = 0x320,
    LAPIC_LVT_LINT0 = 0x350,
    LAPIC_LVT_LINT1 = 0x360,
    LAPIC_TIMER_INITIAL = 0x380,
    LAPIC_TIMER_CURRENT = 0x390,
    LAPIC_TIMER_DIVIDE = 0x3e0,
};
enum {
    LVT_MASKED = 1 << 16,
    LVT_NMI = 4 << 8,
    LVT_TSC_DEADLINE = 2 << 17,
    SVR_ENABLE = 1 << 8,
    DIVIDE_BY_1 = 0xb
};
enum { REDIR_LOW = 1 << 13, REDIR_LEVEL = 1 << 15, REDIR_MASKED = 1 << 16 };

struct ioapic {
    uint64_t phys;
    unsigned gsi_base, pins;
    volatile uint32_t *regs; /* [0] selects, [4] is the window */
};

volatile uint8_t *lapic_registers; /* also read by vectors.S */
volatile uint8_t lapic_timer_armed;
static bool x2apic, tsc_deadline;
static uint32_t lapic_id;
static unsigned next_vector = VECTOR_FIRST;
static struct ioapic ioapics[MAX_IOAPICS];
static unsigned ioapic_count;

static uint32_t lapic_read(enum lapic_register r)
{
    if (x2apic)
        return (uint32_t)rdmsr(MSR_X2APIC + r / 16);
    return *(volatile uint32_t *)(lapic_registers + r);
}

static void lapic_write(enum lapic_register r, uint32_t v)
{
    if (x2apic)
        wrmsr(MSR_X2APIC + r / 16, v);
    else
        *(volatile uint32_t *)(lapic_registers + r) = v;
}

void lapic_init(void)
{
    outb(0x21, 0xff); /* the old controllers, where they exist: never heard again */
    outb(0xa1, 0xff);
    uint64_t base = rdmsr(MSR_APIC_BASE);
    if (!(base & APIC_BASE_ENABLE))
        wrmsr(MSR_APIC_BASE, base | APIC_BASE_ENABLE);
    x2apic = base & APIC_BASE_X2;
    if (!x2apic)
        lapic_registers = mmio_map(base & 0x000ffffffffff000ull, PAGE_SIZE);
    if (!x2apic && !lapic_registers)
        panic("cannot map the local APIC");
    tsc_deadline = cpuid(1, 0).c & 1u << 24;
    lapic_id = lapic_read(LAPIC_ID) >> (x2apic ? 0 : 24);

    const char *wake = x2apic ? irq_wake_x2apic : irq_wake_xapic;
    for (unsigned v = VECTOR_FIRST; v < VECTOR_SPURIOUS; v++)
        trap_set_vector(v, wake);
    trap_set_vector(VECTOR_TIMER, x2apic ? irq_timer_x2apic : irq_timer_xapic);
    trap_set_vector(VECTOR_SPURIOUS, irq_spurious);

    lapic_write(LAPIC_TPR, 0);
    lapic_write(LAPIC_LVT_LINT0, LVT_MASKED);
    lapic_write(LAPIC_LVT_LINT1, LVT_NMI);
    lapic_write(LAPIC_SVR, SVR_ENABLE | VECTOR_SPURIOUS);
    lapic_write(LAPIC_TIMER_DIVIDE, DIVIDE_BY_1);
    lapic_write(LAPIC_LVT_TIMER, LVT_MASKED);
    lapic_write(LAPIC_TIMER_INITIAL, UINT32_MAX); /* runs for the calibration */
}

bool lapic_has_tsc_deadline(void)
{
    return tsc_deadline;
}

uint32_t lapic_timer_read(void)
{
    return lapic_read(LAPIC_TIMER_CURRENT);
}

void lapic_timer_start(uint32_t ticks)
{
    static bool unmasked;
    if (!unmasked) {
        lapic_write(LAPIC_LVT_TIMER, VECTOR_TIMER);
        unmasked = true;
    }
    lapic_timer_armed = 1;
    lapic_write(LAPIC_TIMER_INITIAL, ticks);
}

void lapic_tsc_deadline(uint64_t tsc)
{
    static bool chosen;
    if (!chosen) {
        lapic_write(LAPIC_LVT_TIMER, VECTOR_TIMER | LVT_TSC_DEADLINE);
        __atomic_thread_fence(__ATOMIC_SEQ_CST); /* SDM 11.5.4.1: the mode before the deadline */
        chosen = true;
    }
    lapic_timer_armed = 1;
    wrmsr(MSR_TSC_DEADLINE, tsc);
}

void board_wake(unsigned loop)
{
    (void)
        loop; /* one loop: an interrupt to ourselves is pending until the next sleep ends at once */
    if (x2apic) {
        wrmsr(MSR_X2APIC + LAPIC_ICR / 16, (uint64_t)lapic_id << 32 | VECTOR_WAKE);
    } else {
        lapic_write(LAPIC_ICR_HIGH, lapic_id << 24);
        lapic_write(LAPIC_ICR, VECTOR_WAKE);
    }
}

int irq_alloc(struct irq *irq, unsigned loop)
{
    irq->vector = next_vector;
    irq->loop = loop;
    if (next_vector < VECTOR_LAST)
        next_vector++;
    return 0;
}

int irq_msi_message(const struct irq *irq, uint32_t requester, uint64_t *addr, uint32_t *data)
{
    (void)requester;
    *addr = 0xfee00000u | (lapic_id & 0xff) << 12;
    *data = irq->vector; /* edge, fixed delivery */
    return 0;
}

static uint32_t ioapic_read(const struct ioapic *a, uint32_t reg)
{
    a->regs[0] = reg;
    return a->regs[4];
}

static void ioapic_write(const struct ioapic *a, uint32_t reg, uint32_t v)
{
    a->regs[0] = reg;
    a->regs[4] = v;
}

void ioapic_add(uint64_t phys, unsigned gsi_base)
{
    if (ioapic_count < MAX_IOAPICS)
        ioapics[ioapic_count++] = (struct ioapic){.phys = phys, .gsi_base = gsi_base};
}

void ioapic_init(void)
{
    if (!ioapic_count)
        ioapic_add(IOAPIC_DEFAULT, 0);
    for (unsigned i = 0; i < ioapic_count; i++) {
        struct ioapic *a = &ioapics[i];
        a->regs = (volatile uint32_t *)mmio_map(a->phys, PAGE_SIZE);
        uint32_t version = a->regs ? ioapic_read(a, 1) : UINT32_MAX;
        if (version == UINT32_MAX) {
            log_line("irq", "no I/O APIC at 0x%llx", (unsigned long long)a->phys);
            continue;
        }
        a->pins = (version >> 16 & 0xff) + 1;
    }
}

int irq_route_gsi(const struct irq *irq, unsigned gsi, bool level, bool low)
{
    for (unsigned i = 0; i < ioapic_count; i++) {
        const struct ioapic *a = &ioapics[i];
        if (gsi < a->gsi_base || gsi - a->gsi_base >= a->pins)
            continue;
        uint32_t reg = 0x10 + 2 * (gsi - a->gsi_base);
        ioapic_write(a, reg, REDIR_MASKED);
        ioapic_write(a, reg + 1, lapic_id << 24);
        ioapic_write(a, reg, irq->vector | (level ? REDIR_LEVEL : 0) | (low ? REDIR_LOW : 0));
        return 0;
    }
    return SR_ENOTSUP;
}
