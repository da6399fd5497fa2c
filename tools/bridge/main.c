/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The bridge: what stands on the host between siblings (stock guests) and the storage VM that
 * serves their disks.
 *
 *     sibling's QEMU                      bridge                       storage VM's QEMU
 *       vhost-user-blk-pci ── vhost ────► ┌────────┐ ◄── ivshmem ───── ivshmem-doorbell, per sibling
 *       memory-backend-file               │ worker │ ◄── relay ─────── virtserialport
 *              │                          └───┬────┘                          │ BAR2
 *              │                              │ commits                       │
 *              │                          ┌───┴────┐                          │
 *              └──── the memory file ─────│ keeper │──────────────────────────┘
 *                                         └────────┘
 *
 * Data and, as a rule, interrupts do not pass through it: the storage VM has the sibling's memory as
 * BAR2, the sibling's kick eventfds are MSI-X vectors of the device, and the device's doorbell rings
 * the sibling's call eventfds. The bridge hands the descriptors from one to the other and translates
 * the sibling's vhost-user messages, in which they came, to frames (bridge_spec.h).
 *
 * keeper.c    holds every descriptor and record; starts the worker, again and again
 * keep.h      what the worker asks of it: commits, each carried out completely or not at all
 * worker.c    the worker's loop
 * relay.c     frames from and to the storage VM
 * front.c     messages from a sibling: taken, recorded, passed on, answered; message.c: which exist
 * ring.c      what a sibling's rings are to the storage VM: vectors, peers; replay of a recorded state
 * ivshmem.c   the server of the storage VM's devices
 * signal.c    rings whose interrupts go through the worker, because vectors ran out
 *
 * A sibling's connection outlives the storage VM: its state is recorded and told to the next one. It
 * outlives the worker: the keeper has it. When the keeper dies, so do worker and storage VM (nobody
 * may write to the memory of a sibling that somebody else serves by then), and siblings reconnect.
 *
 * Missing on purpose: migration of siblings, hot-plugged sibling memory (it would lie outside BAR2),
 * in-flight buffers (used entries come in available order, so the used index says it all).
 */
#include "bridge.h"

int main(int argc, char **argv)
{
    options_read(argc, argv);
    return keeper_run(storage_vm_prepare());
}
