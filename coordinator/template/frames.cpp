#include "coordinator/template/frames.h"

#include <unordered_set>

// Jinja decides when it compiles what each name in a frame starts as: a variable of an outer frame,
// one that was given to the template, or nothing. It is nothing where the frame sets the name, not
// in an if, before it reads it itself; frames inside then do not see what was given under that
// name, either. (jinja2/idtracking.py)

namespace skein::jinja {
namespace {

enum class Place : uint8_t { kAlways, kInBranch };  // whether a statement stands in an if

class Names {
 public:
  explicit Names(const Names* outer) : outer_(outer) {}

  void declare_parameter(int name) { known_.insert(name); }

  void read(int name) {
    if (!known_outside(name)) known_.insert(name);
  }

  void store(int name, Place place) {
    const bool added = known_.insert(name).second;
    if (added && place == Place::kAlways && !known_outside(name)) unset_.push_back(name);
  }

  const std::vector<int>& unset() const { return unset_; }

 private:
  bool known_outside(int name) const {
    return outer_ != nullptr && (outer_->known_.contains(name) || outer_->known_outside(name));
  }

  const Names* outer_;
  std::unordered_set<int> known_;
  std::vector<int> unset_;  // stored before they are read
};

// Enters what a frame itself reads and stores into its names, without the bodies of inner frames.
void enter(const Body& body, Place place, Names* names);

void read(const Expr* expr, Names* names);

void read_all(const std::vector<ExprPtr>& exprs, Names* names) {
  for (const ExprPtr& expr : exprs) read(expr.get(), names);
}

void read(const Expr* expr, Names* names) {
  if (expr == nullptr) return;
  if (expr->kind == Expr::Kind::kName) names->read(expr->symbol);
  read_all(expr->children, names);
  read_all(expr->arguments.positional, names);
  for (const auto& [name, value] : expr->arguments.keywords) read(value.get(), names);
  read(expr->arguments.star.get(), names);
  read(expr->arguments.double_star.get(), names);
}

void declare(const Expr& target, Names* names) {
  if (target.kind == Expr::Kind::kName) names->declare_parameter(target.symbol);
  for (const ExprPtr& child : target.children) declare(*child, names);
}

void store(const Expr& target, Place place, Names* names) {
  if (target.kind == Expr::Kind::kName) names->store(target.symbol, place);
  if (target.kind == Expr::Kind::kNamespaceAttribute) names->read(target.symbol);
  for (const ExprPtr& child : target.children) store(*child, place, names);
}

void enter(const Stmt& stmt, Place place, Names* names) {
  switch (stmt.kind) {
    case Stmt::Kind::kIf:
      read_all(stmt.conditions, names);
      for (const Body& body : stmt.bodies) enter(body, Place::kInBranch, names);
      break;
    case Stmt::Kind::kMacro: names->store(stmt.symbol, place); break;
    case Stmt::Kind::kSet:
      read(stmt.value.get(), names);
      store(*stmt.target, place, names);
      break;
    case Stmt::Kind::kSetBlock: store(*stmt.target, place, names); break;
    case Stmt::Kind::kPrint:
    case Stmt::Kind::kFor:
    case Stmt::Kind::kCall: read(stmt.value.get(), names); break;
    case Stmt::Kind::kFilter: read(stmt.filter.get(), names); break;
    case Stmt::Kind::kWith: read_all(stmt.conditions, names); break;
    case Stmt::Kind::kText:
    case Stmt::Kind::kScope:
    case Stmt::Kind::kBreak:
    case Stmt::Kind::kContinue: break;
  }
}

void enter(const Body& body, Place place, Names* names) {
  for (const Stmt& stmt : body) enter(stmt, place, names);
}

void visit_inner_frames(Body& body, const Names& names);

// A frame whose parameters have been declared.
void visit_frame(Frame& frame, Names names) {
  enter(frame.body, Place::kAlways, &names);
  frame.unset = names.unset();
  visit_inner_frames(frame.body, names);
}

void visit_inner_frames(Stmt& stmt, const Names& outer) {
  for (Body& body : stmt.bodies) visit_inner_frames(body, outer);
  for (size_t i = 0; i < stmt.frames.size(); ++i) {
    Names names(&outer);
    if (stmt.kind == Stmt::Kind::kFor && i == 0) declare(*stmt.target, &names);
    for (const ExprPtr& target : stmt.targets) declare(*target, &names);
    if (stmt.kind == Stmt::Kind::kFilter) read(stmt.filter.get(), &names);
    visit_frame(stmt.frames[i], std::move(names));
  }
  if (stmt.macro == nullptr) return;
  Names names(&outer);
  for (const int parameter : stmt.macro->parameters) names.declare_parameter(parameter);
  read_all(stmt.macro->defaults, &names);
  visit_frame(stmt.macro->frame, std::move(names));
}

void visit_inner_frames(Body& body, const Names& names) {
  for (Stmt& stmt : body) visit_inner_frames(stmt, names);
}

}  // namespace

void find_unset_names(SyntaxTree* tree) { visit_frame(tree->frame, Names(nullptr)); }

}  // namespace skein::jinja
