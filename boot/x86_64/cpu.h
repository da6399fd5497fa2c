/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BOOT_X86_64_CPU_H
#define BOOT_X86_64_CPU_H
/*
 * Privileged instructions as functions, the names that the assembly files and the C files of
 * boot/x86_64 share, and what board/pc may call of them. Boot core, interrupts off.
 */
#include "kernel/compiler.h"

static inline void outb(uint16_t port, uint8_t v)
{
    __asm__ volatile("outb %0, %1" : : "a"(v), "Nd"(port));
}
static inline void outw(uint16_t port, uint16_t v)
{
    __asm__ volatile("outw %0, %1" : : "a"(v), "Nd"(port));
}
static inline void outl(uint16_t port, uint32_t v)
{
    __asm__ volatile("outl %0, %1" : : "a"(v), "Nd"(port));
}
static inline uint8_t inb(uint16_t port)
{
    uint8_t v;
    __asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port));
    return v;
}
static inline uint16_t inw(uint16_t port)
{
    uint16_t v;
    __asm__ volatile("inw %1, %0" : "=a"(v) : "Nd"(port));
    return v;
}
static inline uint32_t inl(uint16_t port)
{
    uint32_t v;
    __asm__ volatile("inl %1, %0" : "=a"(v) : "Nd"(port));
    return v;
}

static inline uint64_t rdmsr(uint32_t msr)
{
    uint32_t lo, hi;
    __asm__ volatile("rdmsr" : "=a"(lo), "=d"(hi) : "c"(msr));
    return (uint64_t)hi << 32 | lo;
}
static inline void wrmsr(uint32_t msr, uint64_t v)
{
    __asm__ volatile("wrmsr" : : "c"(msr), "a"((uint32_t)v), "d"((uint32_t)(v >> 32)) : "memory");
}
struct cpuid {
    uint32_t a, b, c, d;
};
static inline struct cpuid cpuid(uint32_t leaf, uint32_t sub)
{
    struct cpuid r;
    __asm__ volatile("cpuid" : "=a"(r.a), "=b"(r.b), "=c"(r.c), "=d"(r.d) : "a"(leaf), "c"(sub));
    return r;
}
#define READ_CR(n)                                        \
    static inline uint64_t read_cr##n(void)               \
    {                                                     \
        uint64_t v;                                       \
        __asm__ volatile("mov %%cr" #n ", %0" : "=r"(v)); \
        return v;                                         \
    }
READ_CR(2)
READ_CR(3)
READ_CR(4)
static inline void write_cr3(uint64_t v)
{
    __asm__ volatile("mov %0, %%cr3" : : "r"(v) : "memory");
}
static inline void write_cr4(uint64_t v)
{
    __asm__ volatile("mov %0, %%cr4" : : "r"(v) : "memory");
}
static inline void invlpg(uint64_t va)
{
    __asm__ volatile("invlpg (%0)" : : "r"(va) : "memory");
}

/* linker.ld */
extern char trap_guard[], trap_stack_top[], boot_guard[], boot_stack_top[], boot_tables[];

/* start.S */
extern uint64_t gdt[];
struct gdt_pointer {
    uint16_t limit;
    uint64_t base;
} __attribute__((packed));
extern struct gdt_pointer gdt_pointer;

/* vectors.S */
extern char exception_stubs[], irq_wake_xapic[], irq_wake_x2apic[], irq_timer_xapic[];
extern char irq_timer_x2apic[], irq_spurious[];

/* trap.c */
enum {
    VECTOR_FIRST = 0x20,
    VECTOR_LAST = 0xef,
    VECTOR_TIMER = 0xf0,
    VECTOR_WAKE = 0xf1,
    VECTOR_SPURIOUS = 0xff
};
void trap_init(void);
void trap_set_vector(unsigned vector, const char *handler);

/* lapic.c; the board tells where the I/O APICs are (ACPI), else there is one at 0xfec00000. */
void lapic_init(void);
void ioapic_add(uint64_t phys, unsigned gsi_base);
void ioapic_init(void);
uint32_t lapic_timer_read(void);        /* counts down at lapic_hz from UINT32_MAX */
void lapic_timer_start(uint32_t ticks); /* one shot */
void lapic_tsc_deadline(uint64_t tsc);
bool lapic_has_tsc_deadline(void);
extern volatile uint8_t lapic_timer_armed; /* cleared by the timer's interrupt */

/* clock.c: clock_begin takes the first sample, clock_end the second and sets the rates. pm_timer is
 * the I/O port of the ACPI timer, or 0. What happens in between counts as calibration time. */
void clock_begin(void);
void clock_end(uint16_t pm_timer);
#endif
