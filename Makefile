# SPDX-License-Identifier: BSD-2-Clause
#
# Strongroom: one source, built in several forms.
#
#   x86_64   the firmware: freestanding, newlib, linked by boot/x86_64/linker.ld
#   aarch64  the same for Arm, by boot/aarch64/linker.ld and a cross compiler
#   host     the same sources as one Linux process
#   asan     host objects under ASan and UBSan; every unit test is linked from these
#   tsan     host objects under TSan, for the tests that run several loops
#   fuzz     host objects by clang, for libFuzzer
#   sim      kernel/, blk/ and formats/ over the simulator's own board; simasan: under ASan and UBSan;
#            mutants: with the deliberate defects that it has to find
#
# To add a file, name it in the room.mk of its folder:
#   SRC_ALL     in every form               SRC_FW      in the firmware, on every architecture
#   SRC_HOST    in the host forms           SRC_x86_64, SRC_aarch64  in the firmware of one
#   MAIN_HOST   those of SRC_HOST that hold main(); tests and fuzzers bring their own
#   SRC_BRIDGE  the sources of the host program build/bridge
# tests/unit/test_X.c and tests/fuzz/fuzz_X.c need no line at all: each becomes a program.
#
# Variables for the command line:
#   BUILD=dir   where everything goes       TP=dir      where built libraries are (to share them)
#   ROOMS=...   build only these rooms      T=pattern   run only these tests
#   V=1         show the commands           FUZZ_RUNS=N inputs per fuzzer
#   SEED=CASE   run only this one of the simulator's

VERSION := 0.1.0

BUILD     ?= build
TP        ?= $(BUILD)/third_party
ROOMS     ?= $(sort $(patsubst %/room.mk,%,$(wildcard */room.mk board/*/room.mk tools/*/room.mk)))
T         ?= *
FUZZ_RUNS ?= 20000
PYTHON    := /usr/bin/python3
FW_ARCHES := x86_64 aarch64
FORMS     := $(FW_ARCHES) host asan tsan fuzz

.DEFAULT_GOAL := all
.DELETE_ON_ERROR:
.SECONDARY:
.SUFFIXES:
MAKEFLAGS += --no-builtin-rules --no-print-directory
ifeq ($(filter -j%,$(MAKEFLAGS)),)
MAKEFLAGS += -j$(shell nproc)
endif

Q   := $(if $(V),,@)
say  = $(if $(V),,@printf '  %-6s %s\n' $1 $(patsubst $(BUILD)/%,%,$@))

# $(call remember,FILE,TEXT): FILE holds TEXT, and is touched only when TEXT changes. What depends
# on FILE is so remade when flags or lists of objects change, and not when a comment in here does.
# (strip: make 4.3 sometimes leaves the newline at the end of what it reads. TP may be shared, and
# called by another name.)
same     = $(and $(findstring x$1x,x$2x),$(findstring x$2x,x$1x))
write    = $(shell mkdir -p $(dir $1))$(file >$1,$2)
update   = $(if $(call same,$(strip $(file <$1)),$2),,$(write))
remember = $(call update,$1,$(strip $(subst $(TP),TP,$2)))

include $(ROOMS:%=%/room.mk)

# ------------------------------------------------------------------------------------------------
# Flags. WARN is for our own code only.

WARN := -Wall -Wextra -Wshadow -Wcast-qual -Wsign-compare -Wwrite-strings -Werror

# Headers of the libraries: system headers to us. net/ is searched for lwipopts.h and arch/cc.h.
LIBINC := -iquote net -isystem $(TP)/src/lwip/src/include -isystem $(TP)/src/zlib \
          -isystem $(TP)/src/zstd/lib -isystem third_party -isystem third_party/json-c \
          -isystem $(TP)/src/json-c -isystem $(TP)/src/libfdt/include/lib/libfdt
LIBDEF := -DZ_SOLO -DZSTD_DISABLE_ASM=1

# newlib's headers come before gcc's: the other way round PRId64 and its like can vanish.
CROSS_aarch64 := aarch64-linux-gnu-
GCC_INCLUDE    = $(shell $(CROSS_$1)gcc -print-file-name=include)
NEWLIB_INC     = -nostdinc -isystem $(TP)/$1/newlib/include -isystem $(call GCC_INCLUDE,$1)
NOT_LINUX   := -U__linux__ -U__linux -Ulinux -U__gnu_linux__ -U__unix__ -U__unix -Uunix

COMMON := -std=gnu17 -g -ffunction-sections -fdata-sections
OURS   := $(COMMON) -I. $(LIBINC) $(LIBDEF) -D_GNU_SOURCE -DSR_VERSION='"$(VERSION)"'
MACHINE_x86_64  := -mno-red-zone -mcmodel=small
TUNE_x86_64     := -falign-loops=1 -falign-jumps=1# padding inside of functions: 25 kB
# Unaligned accesses are fine in normal memory, and no C runs before the MMU is on. (No -mstrict-align:
# it makes zstd twice as large.) Padding of functions and loops would be a tenth of the image.
MACHINE_aarch64 := -mno-outline-atomics -falign-functions=8 -falign-loops=4

# $(call firmware,ARCH): -D__DYNAMIC_REENT__ makes errno and stdio ask __getreent(), one per core.
firmware = $(call NEWLIB_INC,$1) $(NOT_LINUX) -D__DYNAMIC_REENT__ $(MACHINE_$1) $(TUNE_$1) \
           -O2 -fno-pic -fno-pie -fno-stack-protector -fstack-usage -DSR_FORM_FW \
           -DSR_ARCH_$(shell echo $1 | tr a-z A-Z)
NO_UB   := -fno-sanitize-recover=all -fno-omit-frame-pointer

CC_x86_64  := gcc
CC_aarch64 := $(CROSS_aarch64)gcc
CC_host    := gcc
CC_asan    := gcc
CC_tsan    := gcc
CC_fuzz    := clang

CFLAGS_x86_64  := $(OURS) $(call firmware,x86_64)
CFLAGS_aarch64 := $(OURS) $(call firmware,aarch64)
CFLAGS_host   := $(OURS) -DSR_FORM_HOST -O2 -fno-pie
CFLAGS_asan   := $(OURS) -DSR_FORM_HOST -O1 -fsanitize=address,undefined $(NO_UB)
CFLAGS_tsan   := $(OURS) -DSR_FORM_HOST -O1 -fsanitize=thread $(NO_UB)
CFLAGS_fuzz   := $(OURS) -DSR_FORM_HOST -O1 -fsanitize=fuzzer-no-link,address,undefined $(NO_UB)

# The UEFI program runs before it is where it was linked for, and not every firmware has SSE on.
UEFI_FLAGS := -fpie -mgeneral-regs-only
$(call remember,$(BUILD)/x86_64/uefi.flags,$(UEFI_FLAGS))
$(BUILD)/x86_64/obj/boot/uefi.o: $(BUILD)/x86_64/uefi.flags
$(BUILD)/x86_64/obj/boot/uefi.o: CFLAGS_x86_64 += $(UEFI_FLAGS)

WARN_x86_64  := $(WARN)
WARN_aarch64 := $(WARN)
WARN_host   := $(WARN)
WARN_asan   := $(WARN)
WARN_tsan   := $(WARN) -Wno-tsan# fences: dma.h's are for devices
WARN_fuzz   := -w# gcc is the judge

LDFLAGS_host := -no-pie
LDFLAGS_asan := -fsanitize=address,undefined
LDFLAGS_tsan := -fsanitize=thread
LDFLAGS_fuzz := -fsanitize=fuzzer,address,undefined
LDFLAGS_fw := -nostdlib -static -no-pie -Wl,--gc-sections -Wl,--build-id=none \
              -Wl,-z,noexecstack -Wl,-z,max-page-size=4096
$(foreach a,$(FW_ARCHES),$(eval LDFLAGS_$a := $(LDFLAGS_fw) -T boot/$a/linker.ld))

$(foreach a,$(FW_ARCHES),$(eval SRC_of_$a = $$(sort $$(SRC_ALL) $$(SRC_FW) $$(SRC_$a))))
SRC_of_host   = $(sort $(SRC_ALL) $(SRC_HOST))
SRC_of_asan   = $(SRC_of_host)
SRC_of_tsan   = $(SRC_of_host)
SRC_of_fuzz   = $(SRC_of_host)

# The simulator (tests/sim): its own board under kernel/, blk/ and formats/.
SIMS           := sim mutants simasan
CFLAGS_sim     := $(OURS) -DSR_FORM_HOST -DSR_SIM -DSR_FAULTS -O2 -fno-pie
CFLAGS_mutants := $(CFLAGS_sim) -DSR_MUTANTS
CFLAGS_simasan := $(CFLAGS_asan) -DSR_SIM
SRC_of_sim      = $(sort $(filter-out kernel/pci% kernel/mmio.c kernel/nic.c kernel/port.c, \
                      $(filter kernel/% blk/% formats/%,$(SRC_ALL))) \
                      boot/x86_64/switch.S $(wildcard tests/sim/*.c))
SRC_of_mutants  = $(SRC_of_sim)
SRC_of_simasan  = $(SRC_of_sim)
FORMS          += $(SIMS)
$(foreach f,$(SIMS),$(eval CC_$f := gcc)$(eval WARN_$f := $(WARN))$(eval LDFLAGS_$f := -no-pie))
LDFLAGS_simasan := $(LDFLAGS_asan)

# ------------------------------------------------------------------------------------------------
# The libraries: sets LIBS_<form> and HEADERS_<form>; see there.

include third_party/third_party.mk

# ------------------------------------------------------------------------------------------------
# Objects of one form: $(BUILD)/FORM/obj/ROOM/file.o

to_obj = $(addprefix $(BUILD)/$1/obj/,$(addsuffix .o,$(basename $2)))

define form_rules
OBJ_$1      := $$(call to_obj,$1,$$(SRC_of_$1))
OBJ_MAIN_$1 := $$(call to_obj,$1,$$(MAIN_HOST))
$$(call remember,$(BUILD)/$1/flags,$$(CC_$1) $$(CFLAGS_$1) $$(WARN_$1))
$$(call remember,$(BUILD)/$1/objects,$$(OBJ_$1))

$(BUILD)/$1/obj/%.o: %.c $(BUILD)/$1/flags | $$(HEADERS_$1)
	$$(call say,CC)
	@mkdir -p $$(@D)
	$$(Q)$$(CC_$1) $$(CFLAGS_$1) $$(WARN_$1) -MMD -MP -c -o $$@ $$<

$(BUILD)/$1/obj/%.o: %.S $(BUILD)/$1/flags | $$(HEADERS_$1)
	$$(call say,AS)
	@mkdir -p $$(@D)
	$$(Q)$$(CC_$1) $$(CFLAGS_$1) -MMD -MP -c -o $$@ $$<

$(BUILD)/$1/obj/%.o: $(BUILD)/$1/%.S
	@mkdir -p $$(@D)
	$$(Q)$$(CC_$1) -c -o $$@ $$<

.PHONY: objects-$1
objects-$1: $$(OBJ_$1)
endef
$(foreach f,$(FORMS),$(eval $(call form_rules,$f)))

# ------------------------------------------------------------------------------------------------
# Links. A panic prints names, so the program carries a table of its own functions. It is linked
# twice: once with an empty table, then with the table made from the first result. The table lies
# behind all code, so no function moves; `mksyms.py --check` fails the build if one did.

# $(call two_pass,FORM,NAME,PROGRAM,MORE OBJECTS,LINKER SCRIPT)
define two_pass
$(BUILD)/$1/$2-ksyms.S: $(BUILD)/$1/$2.pass1 tools/mksyms.py
	$$(Q)$(PYTHON) tools/mksyms.py $$< >$$@

$(BUILD)/$1/$2.pass1: $(BUILD)/$1/obj/ksyms0.o
$3: $(BUILD)/$1/obj/$2-ksyms.o $(BUILD)/$1/$2.pass1

$(BUILD)/$1/$2.pass1 $3: $$(OBJ_$1) $4 $(BUILD)/$1/objects $$(LIBS_$1) $5
	$$(call say,LINK)
	$$(Q)$$(CC_$1) $$(LDFLAGS_$1) -o $$@ \
	    -Wl,-Map=$(BUILD)/$1/$2$$(if $$(filter %.pass1,$$@),.pass1).map \
	    $$(filter %.o,$$^) $$(filter %.a,$$^) $$(SYSLIBS_$1)
	$$(if $$(filter %.pass1,$$@),,$$(Q)$(PYTHON) tools/mksyms.py --check $(BUILD)/$1/$2.pass1 $$@)

$(BUILD)/$1/$2.lst: $3
	$$(call say,LIST)
	$$(Q)$$(CROSS_$1)objdump -d --no-show-raw-insn $$< >$$@
endef
$(foreach a,$(FW_ARCHES),$(eval $(call \
    two_pass,$a,strongroom,$(BUILD)/$a/strongroom.debug.elf,,boot/$a/linker.ld)))
$(eval $(call two_pass,host,strongroom,$(BUILD)/host/strongroom))

# The firmware with an option that crashes on purpose, for the boot tests.
$(foreach a,$(FW_ARCHES),$(eval $(call two_pass,$a,strongroom-crash,\
    $(BUILD)/$a/strongroom-crash.elf,$(call to_obj,$a,$(wildcard tests/boot/crash/*.c)),\
    boot/$a/linker.ld)))

# What is shipped has no symbols; strongroom.debug.elf beside it has all of them. Loaders want an
# ELF file of a PC's firmware, and on Arm the bytes as they lie in memory.
$(BUILD)/%/strongroom.elf: $(BUILD)/%/strongroom.debug.elf
	$(call say,STRIP)
	$(Q)strip --strip-all -o $@ $<

# The flat image, in whole sectors: a UEFI program as well (boot/pe.inc), by whichever name.
flat = $(Q)$(CROSS_$*)objcopy -O binary $< $@ && truncate -s %512 $@

$(BUILD)/%/strongroom.img: $(BUILD)/%/strongroom.debug.elf
	$(call say,COPY)
	$(flat)

$(BUILD)/%/strongroom.efi: $(BUILD)/%/strongroom.debug.elf
	$(call say,COPY)
	$(flat)

$(BUILD)/%/strongroom-crash.img: $(BUILD)/%/strongroom-crash.elf
	$(call say,COPY)
	$(Q)$(CROSS_$*)objcopy -O binary $< $@

IMAGE_x86_64  := $(BUILD)/x86_64/strongroom.elf
IMAGE_aarch64 := $(BUILD)/aarch64/strongroom.img
IMAGES        := $(foreach a,$(FW_ARCHES),$(IMAGE_$a))
CRASH_IMAGES  := $(subst strongroom.,strongroom-crash.,$(IMAGES))

# Disks that UEFI boots. CONF=file: the options on them.
CONF         ?= tools/strongroom.conf
DISKS        := $(FW_ARCHES:%=$(BUILD)/%/strongroom-disk.img)
UEFI_x86_64  := BOOTX64.EFI
UEFI_aarch64 := BOOTAA64.EFI
$(call remember,$(BUILD)/conf,$(CONF))

$(BUILD)/%/strongroom-disk.img: $(BUILD)/%/strongroom.efi $(CONF) $(BUILD)/conf tools/mkdisk.py
	$(call say,DISK)
	$(Q)$(PYTHON) tools/mkdisk.py $@ EFI/BOOT/$(UEFI_$*)=$< EFI/BOOT/strongroom.conf=$(CONF)

# The host form under the sanitizers, for tests that want the whole program.
$(BUILD)/asan/strongroom: $(OBJ_asan) $(BUILD)/asan/objects $(LIBS_asan) $(BUILD)/asan/obj/ksyms0.o
	$(call say,LINK)
	$(Q)$(CC_asan) $(LDFLAGS_asan) -o $@ $(filter %.o,$^) $(filter %.a,$^) $(SYSLIBS_asan)

$(BUILD)/%/ksyms0.S: tools/mksyms.py
	@mkdir -p $(@D)
	$(Q)$(PYTHON) tools/mksyms.py >$@

# The bridge is a small host program of its own: no room is linked into it.
OBJ_BRIDGE := $(call to_obj,host,$(SRC_BRIDGE))
$(BUILD)/bridge: $(OBJ_BRIDGE)
	$(call say,LINK)
	$(Q)$(CC_host) $(LDFLAGS_host) -Wl,-Map=$@.map -o $@ $^

# ------------------------------------------------------------------------------------------------
# Test programs: everything but main(), and one file of tests/.

UNIT := $(patsubst tests/unit/%.c,%,$(wildcard tests/unit/test_*.c))
FUZZ := $(patsubst tests/fuzz/%.c,%,$(wildcard tests/fuzz/fuzz_*.c))

# $(call test_program,FORM,PROGRAM,SOURCES,LIBRARIES)
define test_program
OBJ_TESTS += $(call to_obj,$1,$3)
$2: $(call to_obj,$1,$3) $(filter-out $(OBJ_MAIN_$1),$(OBJ_$1)) $(BUILD)/$1/obj/ksyms0.o \
    $(BUILD)/$1/objects $(LIBS_$1)
	$$(call say,LINK)
	@mkdir -p $$(@D)
	$$(Q)$(CC_$1) $(LDFLAGS_$1) -o $$@ $$(filter %.o,$$^) $$(filter %.a,$$^) $4 $(SYSLIBS_$1)
endef
UNIT_SUPPORT := $(wildcard tests/unit/support*.c)
FUZZ_SUPPORT := $(wildcard tests/fuzz/support*.c)
$(foreach f,asan tsan,$(foreach t,$(UNIT),$(eval $(call \
    test_program,$f,$(BUILD)/$f/tests/$t,tests/unit/$t.c $(UNIT_SUPPORT),-lcmocka))))
$(foreach t,$(filter-out fuzz_bridge,$(FUZZ)),$(eval $(call \
    test_program,fuzz,$(BUILD)/fuzz/$t,tests/fuzz/$t.c $(FUZZ_SUPPORT))))

# The fuzzer of the bridge is made of the bridge: no room is linked into it.
OBJ_FUZZ_BRIDGE := $(call to_obj,fuzz,tests/fuzz/fuzz_bridge.c $(SRC_BRIDGE_CORE))
OBJ_TESTS       += $(OBJ_FUZZ_BRIDGE)
$(BUILD)/fuzz/fuzz_bridge: $(OBJ_FUZZ_BRIDGE)
	$(call say,LINK)
	$(Q)$(CC_fuzz) $(LDFLAGS_fuzz) -o $@ $^

# The simulator: it has no main() to leave out.
define sim_program
$(BUILD)/$1/sim: $$(OBJ_$1) $(BUILD)/$1/objects $$(LIBS_$1)
	$$(call say,LINK)
	$$(Q)$$(CC_$1) $$(LDFLAGS_$1) -o $$@ $$(filter %.o,$$^) $$(filter %.a,$$^)
endef
$(foreach f,$(SIMS),$(eval $(call sim_program,$f)))

# T may name a test with or without its prefix: T=loop, T='qcow2*'.
chosen     = $(filter $(subst *,%,$T test_$T fuzz_$T),$1)
UNIT_PROGS = $(patsubst %,$(BUILD)/asan/tests/%,$(call chosen,$(UNIT)))
TSAN_PROGS = $(patsubst %,$(BUILD)/tsan/tests/%,$(call chosen,$(UNIT)))
FUZZ_PROGS = $(patsubst %,$(BUILD)/fuzz/%,$(call chosen,$(FUZZ)))

# ------------------------------------------------------------------------------------------------
# Targets for people. The text after ## is what `make help` prints.

PROGRAMS := $(IMAGES) $(FW_ARCHES:%=$(BUILD)/%/strongroom.lst) \
            $(BUILD)/host/strongroom $(BUILD)/host/strongroom.lst \
            $(if $(SRC_BRIDGE),$(BUILD)/bridge)
RUN_TESTS := $(PYTHON) tools/check/run_tests.py --build $(BUILD) --fuzz-runs $(FUZZ_RUNS)

.PHONY: all firmware disk host asan libs unit tsan fuzz sim sim-long test test-long check \
        bench bench-check bench-sibling run run-sibling size deps reference format clean help

all: $(PROGRAMS) ## the firmware and the host form (the default)
firmware: $(IMAGES) ## the firmware only
disk: $(DISKS) ## disks that UEFI boots (CONF=file: their options)
host: $(BUILD)/host/strongroom ## the host form only
asan: $(BUILD)/asan/strongroom ## the host form under ASan and UBSan
libs: $(sort $(foreach f,$(FW_ARCHES) host,$(LIBS_$f))) ## the third-party libraries only

unit: $(UNIT_PROGS) ## build and run the unit tests (T=loop: only test_loop)
	$(Q)$(RUN_TESTS) unit $(UNIT_PROGS)

tsan: $(TSAN_PROGS) ## the unit tests under TSan
	$(Q)$(RUN_TESTS) unit $(TSAN_PROGS)

fuzz: $(FUZZ_PROGS) ## run each fuzzer for FUZZ_RUNS inputs
	$(Q)$(RUN_TESTS) fuzz $(FUZZ_PROGS)

sim: $(BUILD)/sim/sim ## crashes, simulated (SEED=v3:wfz:ddd: one case, as it was)
	$(Q)$< $(SEED)

sim-long: $(BUILD)/sim/sim ## the same for an hour
	$(Q)$< long $(or $(SIM_SECONDS),3600)

# Those that run several loops are run under TSan, too.
LOOP_PROGS := $(patsubst %,$(BUILD)/tsan/tests/%,$(filter %loops,$(UNIT)))
SIM_PROGS  := $(SIMS:%=$(BUILD)/%/sim)
TEST_PROGS  = $(SIM_PROGS) $(UNIT_PROGS) $(LOOP_PROGS) $(FUZZ_PROGS)
TESTED      = $(PROGRAMS) $(DISKS) $(CRASH_IMAGES) $(BUILD)/asan/strongroom $(TEST_PROGS)

test: deps $(TESTED) ## every test; the last line is "N passed, N failed"
	$(Q)$(RUN_TESTS) --junit $(BUILD)/test/junit.xml all $(TEST_PROGS)

test-long: deps $(TESTED) ## the same with a hundred times the fuzzing and the long simulations
	$(Q)STRONGROOM_LONG=1 $(PYTHON) tools/check/run_tests.py --build $(BUILD) \
	    --fuzz-runs $(FUZZ_RUNS)00 --junit $(BUILD)/test/junit.xml all $(TEST_PROGS)

check: $(PROGRAMS) ## style, include directions, stack frames, sizes, registered lists
	$(Q)$(RUN_TESTS) check

bench: all ## every figure we quote, into build/bench.json
	$(Q)$(PYTHON) bench/run.py

bench-sibling: deps all ## disks for siblings beside QEMU's own and qemu-storage-daemon's
	$(Q)$(PYTHON) bench/sibling.py

bench-check: all ## instruction counts against bench/expected.json
	$(Q)$(PYTHON) bench/run.py --check

run: deps all ## boot the firmware in QEMU (ARCH=aarch64: on an Arm machine)
	$(Q)ARCH=$(ARCH) sh tools/run.sh

run-sibling: deps all ## a Linux guest whose disk the firmware serves (IMAGE=my.qcow2)
	$(Q)$(PYTHON) tools/run_sibling.py

size: all ## bytes of text, data and bss per folder, and of every pool
	$(Q)$(PYTHON) tools/size.py $(BUILD)

reference: host ## write docs/reference.md from the tables
	$(Q)$(PYTHON) tools/reference.py $(BUILD)/host/strongroom >docs/reference.md

format: ## let clang-format rewrite our sources
	$(Q)git ls-files '*.c' '*.h' | xargs -r clang-format -i

clean: ## remove what was built (third-party libraries stay; remove build/ for those)
	$(Q)rm -rf $(foreach f,$(FORMS),$(BUILD)/$f) $(BUILD)/bridge $(BUILD)/bridge.map $(BUILD)/test

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 22

# Packages of the host, by name. The stamp is an empty makefile: make remakes what it includes
# before anything else, then reads everything again, so compilers are there before they are asked.
PACKAGES := binutils busybox-static bzip2 clang clang-format device-tree-compiler fio gcc gcc-aarch64-linux-gnu \
            git iproute2 libc6-dev libclang-rt-14-dev libcmocka-dev libnbd-bin liburing-dev make \
            e2fsprogs linux-image-cloud-amd64 mtools nbdkit ovmf python3 python3-libnbd \
            python3-pytest qemu-efi-aarch64 qemu-system-arm qemu-system-x86 qemu-utils u-boot-qemu \
            xz-utils
DEPS := $(BUILD)/deps.mk
$(call remember,$(BUILD)/packages,$(PACKAGES))
ifneq ($(filter deps disk run test test-long,$(MAKECMDGOALS)),)
include $(DEPS)
endif

deps: $(DEPS) ## install the host packages that are missing
$(DEPS): $(BUILD)/packages
	$(Q)missing=; for p in $(PACKAGES); do \
	    dpkg-query -W -f '$${db:Status-Status}' $$p 2>/dev/null | grep -qx installed || \
	        missing="$$missing $$p"; \
	done; \
	if [ -n "$$missing" ]; then \
	    sudo=; [ "$$(id -u)" = 0 ] || sudo=sudo; \
	    $$sudo apt-get -q update; \
	    DEBIAN_FRONTEND=noninteractive $$sudo apt-get -qy -o DPkg::Lock::Timeout=600 \
	        install --no-install-recommends $$missing; \
	fi
	@touch $@

# ------------------------------------------------------------------------------------------------
# What the compiler found out about headers.

-include $(patsubst %.o,%.d,$(foreach f,$(FORMS),$(OBJ_$f)) $(OBJ_BRIDGE) $(OBJ_TESTS))
