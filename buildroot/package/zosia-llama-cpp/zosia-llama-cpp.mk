################################################################################
#
# zosia-llama-cpp
#
################################################################################

# Not Buildroot's own llama-cpp: that is another version without the levels of
# CPU, and no two packages can have one name.
ZOSIA_LLAMA_CPP_VERSION = 0.3.36
ZOSIA_LLAMA_CPP_SITE = https://github.com/abetlen/llama-cpp-python/releases/download/v$(ZOSIA_LLAMA_CPP_VERSION)
ZOSIA_LLAMA_CPP_SOURCE = llama_cpp_python-$(ZOSIA_LLAMA_CPP_VERSION).tar.gz
ZOSIA_LLAMA_CPP_LICENSE = MIT
ZOSIA_LLAMA_CPP_LICENSE_FILES = vendor/llama.cpp/LICENSE
ZOSIA_LLAMA_CPP_SUBDIR = zosia
ZOSIA_LLAMA_CPP_SUPPORTS_IN_SOURCE_BUILD = NO

ZOSIA_LLAMA_CPP_REPOSITORY = $(BR2_EXTERNAL_ZOSIA_PATH)/..

# The file of sources.toml is the one that pip has; where there is no pip, the
# site above has what upstream builds beside it. The hash decides either way.
define ZOSIA_LLAMA_CPP_DOWNLOAD_BY_PIP
	if [ ! -e $(ZOSIA_LLAMA_CPP_DL_DIR)/$(ZOSIA_LLAMA_CPP_SOURCE) ]; then \
		python3 -m pip download --no-deps --no-binary llama-cpp-python \
			--dest $(ZOSIA_LLAMA_CPP_DL_DIR)/pip \
			llama-cpp-python==$(ZOSIA_LLAMA_CPP_VERSION) && \
		mv $(ZOSIA_LLAMA_CPP_DL_DIR)/pip/$(ZOSIA_LLAMA_CPP_SOURCE) $(ZOSIA_LLAMA_CPP_DL_DIR)/; \
	fi || true
endef
ZOSIA_LLAMA_CPP_PRE_DOWNLOAD_HOOKS += ZOSIA_LLAMA_CPP_DOWNLOAD_BY_PIP

# The project that compiles llama-cli for each level is the repository's. The
# source has half a .git, which would confuse upstream's project.
define ZOSIA_LLAMA_CPP_ADD_PROJECT
	rm -rf $(@D)/vendor/llama.cpp/.git $(@D)/zosia
	cp -r $(ZOSIA_LLAMA_CPP_REPOSITORY)/llama $(@D)/zosia
endef
ZOSIA_LLAMA_CPP_POST_EXTRACT_HOOKS += ZOSIA_LLAMA_CPP_ADD_PROJECT
ZOSIA_LLAMA_CPP_POST_RSYNC_HOOKS += ZOSIA_LLAMA_CPP_ADD_PROJECT

# Quoted, for a list of CMake has semicolons.
ZOSIA_LLAMA_CPP_CONF_OPTS = \
	-DLLAMA_SRC=$(@D)/vendor/llama.cpp \
	$(foreach option,$(shell $(BR2_EXTERNAL_ZOSIA_PATH)/board/zosia/guest.py options $(BR2_ARCH)),'$(option)')

# For post-image, which knows where they belong in the initramfs.
define ZOSIA_LLAMA_CPP_INSTALL_TARGET_CMDS
	mkdir -p $(TARGET_DIR)/usr/bin
	$(INSTALL) -m 0755 $(ZOSIA_LLAMA_CPP_BUILDDIR)/bin/llama-cli-* $(TARGET_DIR)/usr/bin/
endef

$(eval $(cmake-package))
